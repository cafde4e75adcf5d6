"""Speed of ops, blocks and models, measured after their results are checked: see NOTES.md."""
