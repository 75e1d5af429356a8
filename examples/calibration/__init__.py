"""The pictures and videos among the examples that ship for a calibration."""
