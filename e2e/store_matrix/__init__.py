"""The store on real file systems and in a real bucket, each under every fault: published whole, or refused with a reason."""
