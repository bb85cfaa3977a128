"""How many adapters a request makes of its survey: what the plan says before anything is run."""

from __future__ import annotations

from si_hub.distill.budget.spend import TRIES
from si_hub.distill.request import Request
from si_hub.distill.survey.plan import Tries

#: Smaller adapters that are fitted, at most, where fitting one left less error than is allowed.
SMALLER = 2


def tries_of(request: Request) -> Tries:
    """The adapters that are measured and fitted for a request."""
    searched = (request.size, request.rank) == (None, None)
    fits = request.survey.fits
    # Besides what a search measures: what the whole budget buys; in which dtype; what fitting leaves.
    each = (1 + TRIES if searched else 1) + (0 if request.dtype else 2) + fits
    rounds = 1 + SMALLER if searched and fits else 1
    # Half and twice of the size that was chosen are measured too.
    return Tries(rounds * each + (0 if request.budgeted else 2), rounds)
