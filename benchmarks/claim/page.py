"""docs/CLAIM.md, from the results: nothing in it is written by hand but what explains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev

from benchmarks.claim.methods import LORAS, RANK
from benchmarks.claim.paired import Difference, compare
from benchmarks.claim.routers import Choice
from benchmarks.claim.runs import BATCH, DRAWN, steps_of
from benchmarks.claim.study import BORROWED, REPORTED, TASKS, Found, Results, best_lora, spread_text
from benchmarks.claim.tasks import UNSEEN

OURS = "fitted"
#: Below this, a difference counts as one.
LEVEL = 0.05

_TOP = """# The claim: what StyleInject gives over a LoRA

This page is written by `make claim`; do not edit it. Its {runs} runs, the search included, took {minutes:.0f} minutes
of processor time, two at once. Everything is trained and measured on the miniature of `examples/miniature`: a Stable
Diffusion of 32 × 32 pixels that obeys its prompts. It says how methods compare there, not how large a difference is on
SD 1.5 or SDXL.

**In one sentence.** {verdict}

**What that is, and what it is not.** `fitted` is what `si-hub train` does unless told otherwise: before anything is
trained, the loss of {surveyed} noisy training pictures is differentiated by the base's own weights, and the numbers
that a LoRA of rank {rank} takes on all linear layers are dealt out, rank by rank, to the linear layers and convolutions
whose gradient has the largest squared singular value per number; each A begins with the right singular vectors. The
operator itself is a LoRA's (transform `add`, one branch): the row *LoRA with the fitted ranks* is PEFT's own LoRA with
the same ranks and the same first A, and {same}. {others}

## How it is measured

- Every method has about the same number of trained parameters as a LoRA of rank {rank} on linear layers (column
  *numbers*), the same batches of 8, AdamW, a cosine, gradients clipped at 1, and a moving average of the weights.
- Every method gets the same search over learning rates (three, doubled or halved further while the best lies at an
  edge) and over steps, on a seed, training pictures and unseen pictures of which nothing is reported. The reported
  seeds, {seeds}, have training pictures of their own, and run with what the search chose.{borrowed}
- *error* is the mean squared error of the predicted velocity on unseen pictures of the task, *forgetting* the same on
  plain pictures with plain prompts (base: {plain:.4f}); in distillation it is the distance from the checkpoint's own
  prediction, divided by the base's distance. ± is the standard deviation over seeds, most of which is the training
  pictures'; *against* is the mean paired difference from the LoRA that the search found best, with the two-sided p of
  Student's paired t test. A task counts as won where `fitted` is better than *every* LoRA of its table, p < {level}.
  All seeds are measured on the same {unseen} unseen pictures, so ± and p speak of training sets and noise, not of those
  pictures.
- A survey takes {surveys} batches forward and backward besides, which the other methods do not have: *LoRA, all layers,
  140 steps* is a LoRA that learns for that time. *ms a step* was taken with two trainings at once, and compares nothing
  closely: `python -m benchmarks.training` takes the steps of methods in turn ([TRAIN.md](TRAIN.md)).
"""

_SMALL = """
## Which part of it wins

{parts}

## The command with nothing else said

`si-hub train BASE PICTURES` on the same {count} pictures of each seed, loaded as a user loads it and measured on the
same unseen pictures. It chooses rate and steps itself, and keeps the step at which its own pictures, with other noise,
had the least error.

{commands}

## What judges see

Pictures drawn for {drawn} held-out prompts by the adapters of each seed; ours less the best LoRA's, mean over seeds:

{judged}

## Do routers move?

Four branches with learned routers, trained on five styles by their words, and asked about unseen pictures at two sizes.
*entropy* 1 is uniform, 0 one branch; *moved* is how far the probabilities spread over pictures; *agreement* how often
the style is right when guessed from the branch that a layer chooses (chance {chance:.2f}).

{routers}

{router_words}

## What was tried and did not win, and what is not here

`make claim-full` runs what this table leaves out: another style, and every method, transform, number of branches and
kind of router on every task; its results are not in the repository.

On this miniature, before this table and outside it, by single seeds: gains and shifts on every module or on norms
alone (good for their few numbers, no help beside a pair of this size); a low-rank pair that reads the output;
products with the features' spread; one spatial core per convolution (`core`, better than an even LoRA, not than
fitted ranks); singular values to the first power instead of the second; a survey that may choose any layer of the
U-Net, time embeddings and first and last convolution too (as good, but exported to fewer programs). Not tried: ranks
and gates by timestep, prior preservation as a method of its own, routers that see the root mean square of
activations, models of full size.
"""


def write_page(
    results: Results,
    plots: Iterable[tuple[str, str]],
    grids: Mapping[str, str],
    routers: Sequence[Choice],
    plain: float,
    surveyed: int,
    commands: Mapping[str, Sequence[float]],
    cost: tuple[int, float],
) -> str:
    """The page's text.

    Args:
        results: of all tasks.
        plots: file names in docs/ and what they show.
        grids: by task, the file of its pictures.
        routers: how those of the routed setting choose, by tokens.
        plain: the base's own error on plain pictures.
        surveyed: noisy pictures of a survey.
        commands: errors by seed of what commands write that say nothing else.
        cost: how many runs there were, and their seconds of processor time.
    """
    lent = [f"*{TASKS[task].title}*" for task in BORROWED if task in results]
    borrowed = f" {_join(lent).capitalize()} take theirs from the search of a task beside them." if lent else ""
    parts = [
        _TOP.format(
            runs=cost[0],
            minutes=cost[1] / 60,
            verdict=verdict(results),
            rank=RANK,
            surveyed=surveyed,
            level=LEVEL,
            seeds=_join(map(str, REPORTED)),
            plain=plain,
            unseen=UNSEEN,
            surveys=surveyed // BATCH,
            same=_same(results["small-16"]),
            others=_others(results),
            borrowed=borrowed,
        )
    ]
    for task, found in results.items():
        parts.append(f"\n## {TASKS[task].title[0].upper()}{TASKS[task].title[1:]}\n\n{table(found)}\n")
        parts.append(_why_not(task, found))
        if task in grids:
            parts.append(f"\n![Pictures drawn for held-out prompts, from equal noise]({grids[task]})\n")
    parts.append(
        _SMALL.format(
            parts=_parts(results["small-16"]),
            count=TASKS["small-16"].count,
            commands=command_table(commands, results["small-16"]),
            drawn=DRAWN,
            judged=judged_words(results),
            chance=routers[0].chance,
            routers=_router_table(routers),
            router_words=_router_words(routers),
        )
    )
    parts.append("\n## Plots\n")
    parts += [f"\n![{words}]({name})\n\n{words}\n" for name, words in plots]
    return "".join(parts)


def against(found: Mapping[str, Found], name: str = OURS, other: str | None = None) -> Difference:
    """A method against another; by default against the LoRA that the search found best."""
    return compare(found[name].errors, found[other or best_lora(found)].errors)


def hardest(found: Mapping[str, Found]) -> tuple[str, Difference]:
    """The LoRA of the table that ours has most to do with, each at what its own search chose, and the difference."""
    gaps = {method.name: against(found, OURS, method.name) for method in LORAS if method.name in found}
    return max(gaps.items(), key=lambda pair: (not _is_won(pair[1]), pair[1].share))


def _is_won(gap: Difference) -> bool:
    return gap.p < LEVEL and gap.share < 0


def verdict(results: Results) -> str:
    """What `fitted` gives over the best LoRA, task by task, as one sentence: won is what no LoRA does as well."""
    won = {task: against(found) for task, found in results.items()}
    clear = {task: gap for task, gap in won.items() if _is_won(gap) and _is_won(hardest(results[task])[1])}
    told = _join(f"{-gap.share:.0%} on {TASKS[task].title} (p {_p(gap.p)})" for task, gap in clear.items())
    left = [TASKS[task].title for task in won if task not in clear]
    rest = f"; on {_join(left)} it is not better beyond the spread" if left else ""
    if not clear:
        return f"At equal size `si-hub train` is not better than the best-tuned PEFT LoRA beyond the spread{rest}."
    return (
        "At equal size, the adapter that `si-hub train` makes leaves less error on unseen pictures than the best-tuned "
        f"PEFT LoRA: {told} less{rest}."
    )


def table(found: Mapping[str, Found]) -> str:
    """One task: a line for every method, the best error first."""
    best = best_lora(found)
    drawn = any(one.judged("alignment") for one in found.values())
    head = ["method", "numbers", "rate", "step", "error", "forgetting", f"against {best}"]
    head += (["alignment", "style"] if drawn else []) + ["ms a step"]
    lines = [head, ["---"] * len(head)]
    for name in sorted(found, key=lambda one: fmean(found[one].errors)):
        one = found[name]
        gap = None if name == best else against(found, name)
        row = [
            f"**{name}**" if name == OURS else name, f"{one.ran.numbers:,}", f"{one.rate:g}", str(one.step),
            spread_text(one.errors), f"{fmean(one.forgotten):.3f}",
            "" if gap is None else f"{gap.share:+.1%}, p {_p(gap.p)}",
        ]  # fmt: skip
        if drawn:
            row += [f"{fmean(values):.2f}" if (values := one.judged(what)) else "" for what in ("alignment", "style")]
        row.append(f"{sorted(ran.step_ms for ran in one.runs.values())[len(one.runs) // 2]:.0f}")
        lines.append(row)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _same(found: Mapping[str, Found]) -> str:
    gap = against(found, OURS, "LoRA with the fitted ranks")
    if gap.p >= LEVEL:
        return f"it does as well (difference {gap.share:+.1%}, p {_p(gap.p)})"
    return f"differs by {gap.share:+.1%} (p {_p(gap.p)})"


def _others(results: Results) -> str:
    """What the injections that look at the features' spread, and routed branches, do beside the plain operator."""
    better: list[str] = []
    worse: list[str] = []
    for task, found in results.items():
        for name in found:
            if name.startswith(OURS) and name != OURS:
                gap = compare(found[name].errors, found[OURS].errors)
                if gap.p < LEVEL:
                    (better if gap.share < 0 else worse).append(f"`{name}` ({gap.share:+.0%} on {TASKS[task].title})")
    told = [
        f"Better than `{OURS}` beyond the spread: {_join(better)}."
        if better
        else "No other injection and no routed branches are better than it at equal size, on any task here."
    ]
    return " ".join([*told, *([f"Worse beyond the spread: {_join(worse)}."] if worse else [])])


def _why_not(task: str, found: Mapping[str, Found]) -> str:
    """Where ours is not better beyond the spread: how large that is, and where the search ended the training."""
    name, gap = hardest(found)
    if _is_won(gap):
        return ""
    spread, steps = stdev(found[name].errors), TASKS[task].steps
    early = [f"`{one}` after {found[one].step}" for one in (OURS, name) if found[one].step < steps_of(task, one)]
    learned = (
        f" The search ends {_join(early)} of {steps} steps: what comes later learns these pictures by heart."
        if early
        else ""
    )
    return (
        f"\nNot better here than *{name}*: the seeds' sets of pictures spread its error by ±{spread:.3f}, and the mean "
        f"difference is {gap.mean:+.3f} (p {_p(gap.p)}).{learned}\n"
    )


def judged_words(results: Results) -> str:
    """What the judges see in drawn pictures, ours less the best LoRA's."""
    lines = []
    for task, found in results.items():
        best = found[best_lora(found)]
        for what, words in (("alignment", "alignment with the prompt"), ("style", "style score")):
            own, other = found[OURS].judged(what), best.judged(what)
            if own and other:
                gap = compare(own, other)
                sure = "" if gap.p < LEVEL else ", within the spread"
                lines.append(f"- {TASKS[task].title}: {words} {gap.mean:+.3f} (p {_p(gap.p)}{sure})")
    return "\n".join(lines)


def _parts(found: Mapping[str, Found]) -> str:
    best = best_lora(found)
    lines = [f"On 16 pictures of a style, against *{best}*:", ""]
    for name, words in (
        ("LoRA with the fitted ranks", "PEFT's LoRA with the fitted ranks and first directions"),
        (OURS, "the same through the StyleInject operator"),
        ("fitted variance", "with the injection `variance`"),
        ("fitted restyle", "with `restyle`"),
        ("fitted adain", "with `adain`"),
        ("fitted n=4, learned", "with four branches and learned routers"),
    ):
        if name in found:
            gap = against(found, name)
            lines.append(f"- {words}: {gap.share:+.1%} (p {_p(gap.p)})")
    return "\n".join(lines)


def command_table(commands: Mapping[str, Sequence[float]], found: Mapping[str, Found]) -> str:
    """A line for every command, beside the LoRA that the search found best, with its rate and steps."""
    best = best_lora(found)
    lines = [["command", "error", f"against {best}, searched"], ["---"] * 3]
    for command, errors in commands.items():
        gap = compare(errors, found[best].errors)
        lines.append([f"`{command} BASE PICTURES`", spread_text(errors), f"{gap.share:+.1%}, p {_p(gap.p)}"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _router_table(routers: Sequence[Choice]) -> str:
    lines = [["tokens", "entropy", "moved", "agreement"], ["---"] * 4]
    lines += [
        [f"{one.tokens:,}", f"{one.entropy:.3f}", f"{one.moved:.3f}", f"{one.agreement:.2f}"] for one in routers
    ]  # fmt: skip
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _router_words(routers: Sequence[Choice]) -> str:
    few, many = routers[0], routers[-1]
    kept = many.moved / few.moved if few.moved else 0.0
    return (
        f"From {few.tokens} tokens to {many.tokens:,} the routers keep {kept:.0%} of their movement. The "
        "chosen default has one branch and no router; branches are for several styles in one file, which `--styles` "
        "trains with a fixed router and named branches."
    )


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _join(texts: Iterable[str]) -> str:
    *most, last = list(texts) or [""]
    return f"{', '.join(most)} and {last}" if most else last
