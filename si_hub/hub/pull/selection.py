"""Which of a repository's files: what is safe to fetch at all, and which one is the adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from si_hub.architectures.recognise import PICKLES
from si_hub.converters.source import CONFIG_NAME, FOLDER_NAMES
from si_hub.errors import MissingEntry, NotStyleInject, UnsupportedFamily, UsageError
from si_hub.foreign import make_safe
from si_hub.format import DEFAULT_NAME
from si_hub.hub.listing import ListedFile, Listing
from si_hub.hub.names import PATH_LIMIT
from si_hub.report.text import size_text
from si_hub.words import call, option

#: What is fetched, by suffix, and the most bytes of it; None: as many as there are. Nothing else ever is: a pickle,
#: a notebook or a script can run any code.
SAFE: dict[str, int | None] = {
    ".safetensors": None,
    ".json": 10_000_000,
    ".md": 2_000_000,
    ".png": 50_000_000,
    ".jpg": 50_000_000,
    ".jpeg": 50_000_000,
    ".webp": 50_000_000,
    ".gif": 50_000_000,
}
WEIGHTS = ".safetensors"
#: So many headers are looked at before the user is asked.
LOOKED_AT = 16

#: Which adapter is wanted: ours; anybody else's, to convert it; ours where there is one, or else anybody's.
Want = Literal["ours", "foreign", "any"]


def objection(entry: ListedFile) -> str | None:
    """Why a file is not fetched; None where it may be."""
    suffix = _suffix(entry.name)
    if suffix not in SAFE:
        return "is a pickle, which can run any code" if suffix in PICKLES else "is no weights, text or image"
    if any(segment.startswith(".") for segment in entry.path.split("/")):
        return "is hidden"
    limit = SAFE[suffix]
    if limit is not None and entry.size > limit:
        return f"has {size_text(entry.size)}, more than {size_text(limit)}"
    return None


def select_safe(
    listing: Listing, subfolder: str | None = None, weight_name: str | None = None
) -> tuple[list[ListedFile], dict[str, str]]:
    """Everything that is safe, and what is left out with the reason.

    Args:
        subfolder: only what is in it.
        weight_name: of the weights only this file, beside all that is small.

    Raises:
        MissingEntry: there are no such weights, or none at all.
    """
    chosen, left_out = [], {}
    wanted = None if weight_name is None else join(subfolder, weight_name)
    for path, entry in listing.files.items():
        reason = objection(entry)
        if subfolder and not path.startswith(join(subfolder, "")):
            reason = reason or f"is not in {subfolder}"
        if wanted is not None and _suffix(path) == WEIGHTS and path != wanted:
            reason = reason or "was not asked for"
        if reason is None:
            chosen.append(entry)
        else:
            left_out[path] = reason
    if not any(_suffix(entry.name) == WEIGHTS for entry in chosen):
        raise _nothing(listing, subfolder, weight_name)
    return chosen, left_out


def choose_weights(
    listing: Listing,
    is_ours: Callable[[ListedFile], bool],
    *,
    want: Want = "ours",
    subfolder: str | None = None,
    weight_name: str | None = None,
    asked: str | None = None,
) -> list[ListedFile]:
    """The weights of the adapter that is wanted: one file; of PEFT's folders by component, one in each.

    Args:
        is_ours: whether a safetensors file is a StyleInject file; asked only where names do not tell.
        subfolder, weight_name: where in the repository, and which.
        asked: what the user calls the repository, for the commands that errors show.

    Raises:
        MissingEntry: no such file, no weights.
        UsageError: several to choose from.
        NotStyleInject: ``ours`` is wanted, and there is somebody else's.
        UnsupportedFamily: somebody else's is wanted, and there is only ours.
    """
    if weight_name is not None:
        entry = listing.files.get(join(subfolder, weight_name))
        if entry is None or _suffix(entry.name) != WEIGHTS or objection(entry):
            raise _nothing(listing, subfolder, weight_name)
        return [entry]
    weights = [
        entry
        for entry in listing.files.values()
        if entry.folder == (subfolder or "").strip("/") and _suffix(entry.name) == WEIGHTS and not objection(entry)
    ]
    named = {entry.name: entry for entry in weights}
    preferred = {"ours": (DEFAULT_NAME,), "foreign": FOLDER_NAMES, "any": (DEFAULT_NAME, *FOLDER_NAMES)}[want]
    for name in preferred:
        if name in named:
            return [named[name]]
    if len(weights) > LOOKED_AT:
        raise _several(weights, listing)
    ours = [entry for entry in weights if is_ours(entry)]
    foreign = [entry for entry in weights if entry not in ours]
    if want != "foreign" and ours:
        return _only(ours, listing)
    if want != "ours" and foreign:
        return _only(foreign, listing)
    if want != "ours" and (components := _components(listing, subfolder)):
        return components
    if want == "ours" and (foreign or _components(listing, subfolder)):
        raise not_ours(listing, foreign or _components(listing, subfolder), subfolder, asked)
    if ours:
        file = f"{listing.lock}/{ours[0].path}"
        raise UnsupportedFamily("is a StyleInject adapter already", file=file, hint="Load it as it is.")
    raise _nothing(listing, subfolder, weight_name)


def weights_to_look_at(listing: Listing) -> list[ListedFile]:
    """The weights at the top of a repository, or all of them where there are none.

    Raises:
        MissingEntry: there are none at all.
        UsageError: more than `LOOKED_AT`.
    """
    weights = [entry for entry in listing.files.values() if _suffix(entry.name) == WEIGHTS and not objection(entry)]
    found = [entry for entry in weights if not entry.folder] or weights
    if not found:
        raise _nothing(listing, None, None)
    if len(found) > LOOKED_AT:
        raise _several(found, listing, f"Pull one: {call('pull', listing.repo_id, weight_name='FILE')}")
    return found


def configs_beside(listing: Listing, weights: Sequence[ListedFile]) -> list[ListedFile]:
    """PEFT's configurations in the folders of ``weights``, without which they have no scale."""
    paths = {join(entry.folder, CONFIG_NAME) for entry in weights}
    return [entry for path, entry in listing.files.items() if path in paths and not objection(entry)]


def join(folder: str | None, name: str) -> str:
    """A path in a repository."""
    return f"{folder.strip('/')}/{name}" if folder and folder.strip("/") else name


def conversion_call(asked: str, name: str | None = None) -> str:
    """What converts a repository's adapter. A file's name is a stranger's: it is quoted, and no command of its own."""
    return call("convert", asked, weight_name=make_safe(name, PATH_LIMIT) if name else None)


def not_ours(
    listing: Listing, foreign: Sequence[ListedFile], subfolder: str | None = None, asked: str | None = None
) -> NotStyleInject:
    """Somebody else's adapter, and the command for it: with a file's name where the repository's would not do."""
    by_itself = not subfolder and (len(foreign) == 1 or any(entry.name in FOLDER_NAMES for entry in foreign))
    command = conversion_call(asked or listing.repo_id, None if by_itself else foreign[0].path)
    return NotStyleInject(
        "the repository holds no StyleInject file", file=listing.repo_id, found=_names(foreign),
        hint=f"Convert it: {command}, or load it with convert=True.",
    )  # fmt: skip


def _components(listing: Listing, subfolder: str | None) -> list[ListedFile]:
    """Weights in folders named like components, as training scripts save PEFT adapters: ``unet/`` …"""
    from si_hub.architectures.folder import COMPONENT

    def is_one(entry: ListedFile) -> bool:
        parent, _, component = entry.folder.rpartition("/")
        return (
            parent == (subfolder or "").strip("/")
            and COMPONENT.fullmatch(component) is not None
            and entry.name in FOLDER_NAMES
            and join(entry.folder, CONFIG_NAME) in listing.files
        )

    return [entry for entry in listing.files.values() if is_one(entry)]


def _only(entries: list[ListedFile], listing: Listing) -> list[ListedFile]:
    if len(entries) > 1:
        raise _several(entries, listing)
    return entries


def _several(entries: Sequence[ListedFile], listing: Listing, hint: str | None = None) -> UsageError:
    return UsageError(
        "the repository holds several adapters", file=listing.repo_id, found=_names(entries),
        hint=hint or f"Say which: {option('weight_name')}",
    )  # fmt: skip


def _nothing(listing: Listing, subfolder: str | None, weight_name: str | None) -> MissingEntry:
    weights = [entry for entry in listing.files.values() if _suffix(entry.name) == WEIGHTS]
    pickles = [entry for entry in listing.files.values() if _suffix(entry.name) in PICKLES]
    where = join(subfolder, weight_name or "") or None
    if weight_name is not None and _suffix(weight_name) != WEIGHTS:
        return MissingEntry("only safetensors files are fetched", file=listing.repo_id, key=where)
    if weights:
        return MissingEntry("has no such file", file=listing.repo_id, key=where, found=_names(weights))
    hint = "Pickles are never fetched, they can run any code: ask for safetensors." if pickles else None
    return MissingEntry(
        "holds no safetensors file", file=listing.repo_id, key=where, found=_names(pickles) or None, hint=hint
    )


def _names(entries: Sequence[ListedFile]) -> str:
    shown = ", ".join(entry.path for entry in entries[:4])
    return f"{shown} and {len(entries) - 4} more" if len(entries) > 4 else shown


def _suffix(name: str) -> str:
    _, dot, last = name.rpartition("/")[2].rpartition(".")
    return f"{dot}{last.lower()}"
