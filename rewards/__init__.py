"""What an episode is worth: verified answers, length rewards, and how they combine."""
