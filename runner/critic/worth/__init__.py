"""What verdicts are worth: how far they agree with people, and with another review of the same images."""
