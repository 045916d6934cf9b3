"""The search for the integers that lose least: calibrate once, rebuild often, measure on the true runtime.

:mod:`strategy` decides (pure), :mod:`bench` builds and measures, :mod:`journal` remembers across interruptions,
:mod:`contest` joins them for one variant.
"""
