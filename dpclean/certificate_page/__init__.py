"""What a certificate looks like to a reader: its page, its curves, its words explained."""
