"""The dialects that the server speaks, one a file."""
