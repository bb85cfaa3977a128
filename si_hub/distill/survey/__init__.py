"""What the prediction feels of each layer's change, kept between runs."""
