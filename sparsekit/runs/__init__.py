"""Run folders: written while a run trains, read afterwards."""
