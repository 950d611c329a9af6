"""What is known of peers and lasts: who they are, what they may, which address they have; knows peer IDs, but no peer,
no configuration and no socket."""
