"""The methods of distilling, each with one function: pairs and a request to an outcome."""
