"""A judge: another model that scores replies from 0 to 100."""
