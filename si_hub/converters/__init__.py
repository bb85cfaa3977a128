"""Foreign adapter files → `si_hub.adapter.Adapter`: what they are, whose modules they change, and by how much."""

from __future__ import annotations

from si_hub.converters.detect.detection import Detection as Detection
from si_hub.converters.detect.detection import detect as detect
from si_hub.converters.families.contract import Family as Family
from si_hub.converters.families.registry import FAMILIES as FAMILIES
from si_hub.converters.outline import Outline as Outline
from si_hub.converters.outline import outline as outline
from si_hub.converters.pairing import convert_pair as convert_pair
from si_hub.converters.reading import Conversion as Conversion
from si_hub.converters.reading import convert_source as convert_source
from si_hub.converters.report import Report as Report
from si_hub.converters.report import Use as Use
from si_hub.converters.source import Source as Source
from si_hub.converters.source import open_source as open_source
from si_hub.converters.source import source_of as source_of

__all__ = ["FAMILIES", "Conversion", "Detection", "Family", "Outline", "Report", "Source", "Use", "convert_pair",
           "convert_source", "detect", "open_source", "outline", "source_of"]  # fmt: skip
