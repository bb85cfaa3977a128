"""Nothing that is written to be shared, or sent, says on what machine, in what folder or by what user it was made."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

import si_hub
from si_hub import distill
from si_hub import format as file_format
from si_hub.errors import DocumentError

ROOT = Path(__file__).parent.parent
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from tests.hub.loopback import LoopbackHub  # noqa: E402
from tests.miniature import tune_attentions  # noqa: E402

MINIATURE = ROOT / "examples" / "miniature"
USER = "karlotta"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where karlotta works: a base model, a checkpoint tuned from it and a LoRA, in folders of her own."""
    place = tmp_path / USER
    shutil.copytree(MINIATURE / "base", place / "treasury" / "base")
    shutil.copy(MINIATURE / "checkpoints" / "ink.safetensors", place / "treasury" / "ink.safetensors")
    shutil.copy(MINIATURE / "peers" / "kohya_lora.safetensors", place / "neon.safetensors")
    shutil.copy(MINIATURE / "prompts.txt", place / "treasury" / "prompts.txt")
    for name in ("USER", "LOGNAME", "USERNAME"):
        monkeypatch.setenv(name, USER)
    monkeypatch.setenv("HOME", str(place))
    monkeypatch.setenv("XDG_CACHE_HOME", str(place / ".cache"))
    monkeypatch.chdir(place)
    return place


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    from huggingface_hub import close_session

    from tests.hub.loopback.environment import turn_to

    with LoopbackHub(tmp_path / "hub") as hub:
        turn_to(hub.url, tmp_path / USER / "hf", monkeypatch)
        close_session()
        yield hub
        close_session()


def traces(data: bytes, home: Path) -> list[str]:
    """Which of what is known of this machine alone is in some bytes."""
    known = (str(home.parent), str(home), USER, "treasury", str(ROOT))
    return [text for text in known if text.encode() in data]


def convert(home: Path) -> Path:
    done = si_hub.convert(home / "neon.safetensors", base=home / "treasury" / "base")
    # The result is for karlotta, who knows where she is: what is looked for can be found.
    assert traces(done.as_text().encode(), home)
    return done.path


def trained_at(*folders: str) -> dict[str, str]:
    """What a trainer writes of itself into a LoRA's header, from folders of these names."""
    return {
        f"{number}.{key}" if number else key: text
        for number, folder in enumerate(folders)
        for key, text in {
            "ss_output_dir": folder,
            "ss_sd_model_name": f"{folder}/anime.safetensors",
            "ss_output_name": f"{folder}/neon",
            "ss_datasets": json.dumps([{"image_dir": f"{folder}/pictures", "repeats": 2}]),
            "ss_training_comment": f"of {folder}/pictures",
            "ss_steps": "1000",
        }.items()
    }


def convert_a_trainers(home: Path) -> Path:
    """Of a LoRA that says where it was trained."""
    tensors = load_file(home / "neon.safetensors")
    said = trained_at(str(home), f"/home/{USER}", f"/Users/{USER}", f"C:\\Users\\{USER}", f"C:/Users/{USER}")
    save_file(tensors, home / "trained.safetensors", said)
    done = si_hub.convert(home / "trained.safetensors", base=home / "treasury" / "base")
    kept = file_format.read(done.path).metadata
    assert (kept["ss_steps"], kept["ss_sd_model_name"], kept["ss_output_name"]) == ("1000", "anime.safetensors", "neon")
    assert done.report.left_out.keys() == {key for key in said if key.endswith(("_dir", "_datasets", "_comment"))}
    return done.path


def distil(home: Path) -> Path:
    tuned = home / "treasury" / "ink.safetensors"
    done = distill.distill(home / "treasury" / "base", tuned, method="svd", rank=2)
    assert traces(done.as_text().encode(), home)
    return done.path


def save(home: Path) -> Path:
    from diffusers import StableDiffusionPipeline

    si_hub.enable()
    pipe = StableDiffusionPipeline.from_pretrained(home / "treasury" / "base", safety_checker=None)
    pipe.load_styleinject_weights(home / "neon.safetensors", "neon", convert=str(home / "treasury" / "base"))
    return Path(pipe.save_styleinject_weights(home / "saved", "neon", base_model=home / "treasury" / "base").path)


def report_adapter(home: Path, *files: Path) -> None:
    tuned, prompts = home / "treasury" / "ink.safetensors", home / "treasury" / "prompts.txt"
    distill.distill(home / "treasury" / "base", tuned, method="svd", rank=2, report=files, pictures=1, prompts=prompts)


def report_adapter_of_what_cannot_be_run(home: Path, *files: Path) -> None:
    done = distill.distill(home / "treasury" / "base" / "unet", home / "treasury" / "ink.safetensors", report=files)
    assert done.reason.startswith("unet is not a whole pipeline")


def report_curve(home: Path, *files: Path) -> None:
    tuned = tune_attentions(home / "treasury", "neon")
    done = distill.curve(
        home / "treasury" / "base", tuned, report=files, prompts=home / "treasury" / "prompts.txt", trajectories=2,
        states=2, sampling_steps=3, held_out=2, pieces=2, sizes=[60_000],
    )  # fmt: skip
    assert traces(done.as_text().encode(), home)


@pytest.mark.parametrize("make", [report_adapter, report_adapter_of_what_cannot_be_run, report_curve])
def test_a_report_says_nothing_of_the_machine(make: Callable[..., None], home: Path) -> None:
    from PIL import Image

    page, sheet = home / "report.html", home / "report.png"
    make(home, page, sheet)
    assert b"base" in page.read_bytes()
    for file in (page, sheet):
        assert traces(file.read_bytes(), home) == [], file.name
    with Image.open(sheet) as picture:
        # Compressed, text of a PNG is not in its bytes.
        assert traces(str(getattr(picture, "text", {})).encode(), home) == []


@pytest.mark.parametrize("make", [convert, convert_a_trainers, distil, save])
def test_what_is_made_and_pushed_says_nothing_of_the_machine(
    make: object, home: Path, hub: LoopbackHub, tmp_path: Path
) -> None:
    assert callable(make)
    file = make(home)
    assert traces(file.read_bytes(), home) == []
    pushed = si_hub.push(file, "user/style", token=hub.token("writer"), tag="v1", bars=False)
    repository = hub.repo("user/style")
    sent = repository.files()
    assert {"README.md", "config.json", "styleinject.safetensors"} <= sent.keys()
    assert sent["styleinject.safetensors"] == file.read_bytes()
    for name, data in sent.items():
        assert traces(data, home) == [], name
    assert traces("\n".join([pushed.url, *repository.messages(), *repository.tags]).encode(), home) == []
    assert len(hub.log.matching(r"POST .*/commit/")) == 1
    for one in hub.log:
        said = "\n".join([one.target, *(f"{name}: {value}" for name, value in one.headers.items())]).encode()
        assert traces(said + b"\n" + one.body, home) == [], one.target
    remembered = file.parent / ".si-hub.json"
    assert traces(remembered.read_bytes(), home) == []


@pytest.mark.parametrize("folder", ["HOME/out", "/home/someone/out", "/Users/someone/out", "D:\\Users\\someone\\out"])
def test_what_an_earlier_version_kept_is_not_pushed_and_a_new_conversion_can_be(
    folder: str, home: Path, hub: LoopbackHub
) -> None:
    made = convert(home)
    adapter = file_format.read(made)
    adapter.metadata["ss_output_dir"] = folder.replace("HOME", str(home))
    file_format.write(adapter, made, overwrite=True)
    with pytest.raises(DocumentError, match=r"ss_output_dir: holds the path of a home folder.*Convert its source"):
        si_hub.push(made, "user/style", token=hub.token("writer"), bars=False)
    assert hub.repositories == []
    made.unlink()
    assert si_hub.push(convert(home), "user/style", token=hub.token("writer"), bars=False).created
