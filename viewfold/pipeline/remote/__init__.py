"""Shards in object stores: addresses, requests that are tried again, and the cache that a node's processes share."""
