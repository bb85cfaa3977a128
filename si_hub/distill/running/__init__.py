"""The base's pipeline run and listened to: states, predictions, what an adapter leaves of the error."""
