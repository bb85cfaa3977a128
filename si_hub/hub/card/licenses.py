"""A licence as an author writes it → the three keys of a model card that the Hub understands."""

from __future__ import annotations

import re

#: The Hub's identifiers (https://huggingface.co/docs/hub/repositories-licenses).
_KNOWN = """
afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5 cc-by-3.0
cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0
cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0 cdla-permissive-2.0
cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 gemma
gfdl gpl gpl-2.0 gpl-3.0 h-research intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2
llama3.3 lppl-1.3c mit mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openrail openrail++ osl-3.0 pddl postgresql unknown
unlicense wtfpl zlib
"""
IDENTIFIERS = frozenset(_KNOWN.split())

_ADDRESS = re.compile(r"https?://[A-Za-z0-9./_~%?=#+-]+")


def card_keys(license: str) -> dict[str, str]:
    """``license`` alone where the Hub knows it, else ``other`` with a name, and a link where the text holds one.

    SPDX names differ from the Hub's in case and in ``-only`` and ``-or-later``.
    """
    known = re.sub(r"-(only|or-later)$", "", license.strip().lower())
    if known in IDENTIFIERS:
        return {"license": known}
    address = _ADDRESS.search(license)
    words = license.replace(address[0], " ") if address else license
    name = re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-.")[:96].rstrip("-.")
    return {"license": "other", "license_name": name or "custom"} | ({"license_link": address[0]} if address else {})
