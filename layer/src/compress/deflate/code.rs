//! Prefix codes: from how often each symbol occurs to its bits.

/// The most symbols of a code.
const SYMBOLS: usize = 288;

/// Sets the lengths of a prefix code that suits the counts, of at most `limit` bits; 0 for what does not occur.
///
/// Without the limit's help it is Huffman's, and nearly the best otherwise. A symbol that is alone has one bit.
pub(super) fn lengths(counts: &[u32], limit: u32, lengths: &mut [u8]) {
    lengths.fill(0);
    // The count above, the symbol below: they are sorted as numbers.
    let mut sorted = [0_u64; SYMBOLS];
    let mut used = 0;
    for (symbol, &count) in counts.iter().enumerate() {
        if count > 0 {
            sorted[used] = u64::from(count) << 16 | symbol as u64;
            used += 1;
        }
    }
    let sorted = &mut sorted[..used];
    if let [alone] = sorted {
        lengths[(*alone & 0xffff) as usize] = 1;
    }
    if used < 2 {
        return;
    }
    sorted.sort_unstable();
    let mut depths = [0_u32; SYMBOLS];
    tree(sorted, &mut depths[..used]);
    let mut of_length = [0_u32; 16];
    for depth in &depths[..used] {
        of_length[(*depth).min(limit) as usize] += 1;
    }
    // What was cut to the limit takes more than there is, in units of the longest code. One unit is had back when a
    // shorter code becomes two that are longer by one bit, of which one is for a symbol that had the longest.
    let mut taken: u32 = (1..=limit).map(|length| of_length[length as usize] << (limit - length)).sum();
    while taken > 1 << limit {
        let shorter = (1..limit as usize).rev().find(|length| of_length[*length] > 0).expect("not all are the longest");
        of_length[shorter] -= 1;
        of_length[shorter + 1] += 2;
        of_length[limit as usize] -= 1;
        taken -= 1;
    }
    let mut rarest_first = sorted.iter();
    for length in (1..=limit).rev() {
        for entry in rarest_first.by_ref().take(of_length[length as usize] as usize) {
            lengths[(entry & 0xffff) as usize] = length as u8;
        }
    }
}

/// Sets the depth of each leaf of Huffman's tree over counts that rise.
///
/// The two lightest of what has no parent are always the first of the leaves or of the nodes, which are made in the
/// order of their weights.
fn tree(sorted: &[u64], depths: &mut [u32]) {
    let count = sorted.len();
    let mut weights = [0_u64; SYMBOLS];
    let (mut parents_of_leaves, mut parents_of_nodes) = ([0_u16; SYMBOLS], [0_u16; SYMBOLS]);
    let (mut leaf, mut node) = (0, 0);
    for made in 0..count - 1 {
        for _ in 0..2 {
            if node == made || (leaf < count && sorted[leaf] >> 16 <= weights[node]) {
                weights[made] += sorted[leaf] >> 16;
                parents_of_leaves[leaf] = made as u16;
                leaf += 1;
            } else {
                weights[made] += weights[node];
                parents_of_nodes[node] = made as u16;
                node += 1;
            }
        }
    }
    let mut depths_of_nodes = [0_u32; SYMBOLS];
    for node in (0..count - 2).rev() {
        depths_of_nodes[node] = depths_of_nodes[usize::from(parents_of_nodes[node])] + 1;
    }
    for (depth, parent) in depths.iter_mut().zip(parents_of_leaves) {
        *depth = depths_of_nodes[usize::from(parent)] + 1;
    }
}

/// Sets the canonical code of each symbol, its bits in the order in which they are written.
pub(super) fn codes(lengths: &[u8], codes: &mut [u16]) {
    let mut of_length = [0_u32; 16];
    for length in lengths.iter().filter(|length| **length > 0) {
        of_length[usize::from(*length)] += 1;
    }
    let mut next = [0_u32; 16];
    for length in 1..16 {
        next[length] = (next[length - 1] + of_length[length - 1]) << 1;
    }
    for (code, &length) in codes.iter_mut().zip(lengths) {
        if length > 0 {
            let next = &mut next[usize::from(length)];
            *code = (*next as u16).reverse_bits() >> (16 - length);
            *next += 1;
        }
    }
}

/// Returns how many bits all symbols take.
pub(super) fn cost(counts: &[u32], lengths: &[u8]) -> u64 {
    counts.iter().zip(lengths).map(|(count, length)| u64::from(*count) * u64::from(*length)).sum()
}

/// Tells whether a code of single bytes could make data shorter.
pub(super) fn shortens(data: &[u8]) -> bool {
    // Four tables, so that a count need not wait for the one before.
    let mut tables = [[0_u32; 256]; 4];
    let mut fours = data.chunks_exact(4);
    for four in fours.by_ref() {
        for (table, byte) in tables.iter_mut().zip(four) {
            table[usize::from(*byte)] += 1;
        }
    }
    for byte in fours.remainder() {
        tables[0][usize::from(*byte)] += 1;
    }
    let mut counts = [0; 256];
    for table in &tables {
        for (count, more) in counts.iter_mut().zip(table) {
            *count += more;
        }
    }
    let mut of_bytes = [0; 256];
    lengths(&counts, 14, &mut of_bytes);
    cost(&counts, &of_bytes) < 8 * data.len() as u64
}
