"""Looking at runs: curves, episodes, alarms, reports. Reads run folders, writes nothing into them."""
