"""StyleInject in live models: functions for pipelines, and the PEFT tuner."""

from __future__ import annotations

from si_hub.tuner.config import StyleInjectConfig as StyleInjectConfig
from si_hub.tuner.door import root_of as root_of
from si_hub.tuner.injection import InjectReport as InjectReport
from si_hub.tuner.injection import bake as bake
from si_hub.tuner.injection import extract as extract
from si_hub.tuner.injection import inject as inject
from si_hub.tuner.injection import remove as remove
from si_hub.tuner.leaves import Mismatch as Mismatch
from si_hub.tuner.model import StyleInjectModel as StyleInjectModel
from si_hub.tuner.steering import AdapterState as AdapterState
from si_hub.tuner.steering import adapters as adapters
from si_hub.tuner.steering import fuse as fuse
from si_hub.tuner.steering import set_active as set_active
from si_hub.tuner.steering import set_enabled as set_enabled
from si_hub.tuner.steering import set_styles as set_styles
from si_hub.tuner.steering import to_device as to_device
from si_hub.tuner.steering import unfuse as unfuse
