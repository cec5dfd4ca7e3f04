"""The store on real file systems and in a real bucket, under each fault: published whole, or refused with a reason."""
