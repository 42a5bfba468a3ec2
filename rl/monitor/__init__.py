"""Looking at runs: curves, episodes, warnings, reports. Reads run folders, writes nothing into them."""
