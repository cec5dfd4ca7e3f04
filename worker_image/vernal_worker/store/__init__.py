"""The artifact store on shared storage: staging, manifest, digests, publish, lease, failures, clean-up.

    artifacts/<identity>/<host16>/current                   symlink to a generation, swapped by rename
    artifacts/<identity>/<host16>/<generation>/             immutable once published; manifest.json is written last
    artifacts/<identity>/<host16>/failures/<generation>/    one small file a failed thaw
    artifacts/<identity>/<host16>/retired/<generation>      empty; its time says since when the generation is not
                                                            current
    artifacts/<identity>/<host16>/readers/<generation>.*    heartbeat of a thaw
    artifacts/<identity>/<host16>/users/<hash>              on whose behalf there are artifacts of this key
    staging/<uuid>/                                         being written, or being deleted
    blobs/<digest>                                          a file that artifacts share, as hard links to it
    leases/<identity>-<host16>                              creator lease; beside it its heartbeat

`host16` is the first 16 hex digits of the host tuple's digest. It is a directory level because a pool may run on mixed
nodes: two host tuples then each have an artifact of one identity, and must not fight over one pointer.

The storage may be NFS: rename, link, symlink, O_EXCL and fsync are all that is relied on, and no clock is compared with
another machine's. Directories are 0700 and files 0600, because an artifact is the memory of a process.
"""
