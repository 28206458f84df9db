"""What is done beside a run: pairs made again, one model measured, a model prepared for the hub."""
