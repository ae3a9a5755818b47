"""The Hugging Face Hub as all rooms reach it: within time limits, with its errors in one line."""
