"""The room to play in: adapters on a base model in a page of one's own machine. Gradio is needed for the page alone."""
