"""The programs around an application: machida3, sender and the others."""
