"""What people look at: tables of what a file holds and of what a conversion did."""
