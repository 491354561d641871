"""A model that scores free answers, over any OpenAI-compatible endpoint."""
