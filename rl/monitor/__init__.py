"""Views of runs: curves, episodes, warnings, reports. Reads run folders and writes nothing into them."""
