"""Do the five parties belong together? Asked with files that the tests write."""
