"""The Hub: repositories pushed, pulled and looked at, whole and verified."""
