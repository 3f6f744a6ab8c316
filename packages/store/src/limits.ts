/** The store's limits, in one place. A file above its limit is refused before it is parsed. */
export const limits = {
  indexBytesMax: 16 * 1024 * 1024,
  manifestBytesMax: 4 * 1024 * 1024,
  configBytesMax: 1024 * 1024,
  layoutBytesMax: 4096,
  /** More would run into `vm.max_map_count` long before. */
  memoryLayersMax: 4096,
  /** The disk server takes no more for one disk. */
  diskLayersMax: 4096,
  snapshotsMax: 50_000,
  imageListMax: 1024,
  textBytesMax: 64 * 1024,
  statsMax: 64,
  /** Set aside so that a snapshot can still be removed when the file system is full. */
  reserveBytes: 256 * 1024,
  blobBytesMax: 1024 ** 5,
  /** A temporary file that nobody renamed for this long belongs to a writer that is gone. */
  ingestAgeMsMax: 60 * 60 * 1000,
} as const;
