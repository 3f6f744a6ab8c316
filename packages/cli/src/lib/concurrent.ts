/** The limit of concurrent requests: more would only wait in the controller. */
const AT_ONCE = 16;

/** Runs `work` for all items, some at a time. The results are in the order of `items`. Rejects with the first failure. */
export async function mapSome<Item, Result>(
  items: readonly Item[],
  work: (item: Item) => Promise<Result>,
): Promise<Result[]> {
  const results: Result[] = [];
  const rest = items.entries();
  const worker = async () => {
    for (const [index, item] of rest) results[index] = await work(item);
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, items.length) }, worker));
  return results;
}
