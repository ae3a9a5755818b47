"""sparsekit: sparse transfer learning of NLP transformers, from one composed config."""
