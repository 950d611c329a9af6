"""CrypRQ: a post-quantum VPN for Linux."""
