"""What a foreign file is: its modules, their families, and the base model that they are for; never by its data."""
