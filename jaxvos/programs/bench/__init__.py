"""`jaxvos bench`: what this machine takes for compilation, inference, training, data and scores."""
