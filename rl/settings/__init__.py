"""What the sections of a config may hold: checks that the trainer and the application share."""
