//! Tests of compressing and decompressing.

use super::*;

/// Bytes that compress like a program does: not well, not badly.
fn sample(size: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut bytes = Vec::with_capacity(size + 16);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state & 3 == 0 || bytes.len() < 1000 {
            bytes.extend_from_slice(&state.to_le_bytes());
        } else {
            let back = 1 + state as usize / 16 % bytes.len().min(60_000);
            let start = bytes.len() - back;
            let piece = bytes[start..(start + 4 + state as usize % 40).min(bytes.len())].to_vec();
            bytes.extend_from_slice(&piece);
        }
    }
    bytes.truncate(size);
    bytes
}

fn encode(data: &[u8], compression: Compression, threads: usize, writes: usize) -> Vec<u8> {
    let mut encoder = Encoder::new(Vec::new(), compression, threads).unwrap();
    for piece in data.chunks(writes) {
        encoder.write_all(piece).unwrap();
        encoder.flush().unwrap();
    }
    encoder.finish().unwrap()
}

fn decode(bytes: Vec<u8>) -> io::Result<(Format, Vec<u8>)> {
    let (format, mut reader) = decoder(Cursor::new(bytes))?;
    let mut plain = Vec::new();
    reader.read_to_end(&mut plain)?;
    Ok((format, plain))
}

#[test]
fn everything_comes_back_and_is_recognized() {
    for size in [0, 1, 5, 1000, 131_071, 131_072, 131_073, 262_144, 1_000_000, 5_000_000] {
        let data = sample(size);
        for (compression, format) in
            [(Compression::None, Format::Plain), (Compression::Gzip, Format::Gzip), (Compression::Zstd, Format::Zstd)]
        {
            let (found, plain) = decode(encode(&data, compression, 2, 1 << 16)).unwrap();
            assert_eq!((found, plain == data), (format, true), "{size} {compression:?}");
        }
    }
}

#[test]
fn neither_threads_nor_the_sizes_of_writes_are_seen_in_the_bytes() {
    for size in [10, 700_000, 6_000_000] {
        let data = sample(size);
        for compression in [Compression::Gzip, Compression::Zstd] {
            let expected = encode(&data, compression, 1, usize::MAX);
            for (threads, writes) in [(1, 4096), (2, 1 << 20), (3, 70_001), (8, 131_072), (0, 333)] {
                assert!(encode(&data, compression, threads, writes) == expected, "{size} {compression:?} {threads}");
            }
        }
    }
}

#[test]
fn which_thread_takes_which_block_is_not_seen_in_the_bytes() {
    let data = sample(3_000_000);
    let expected = encode(&data, Compression::Gzip, 1, usize::MAX);
    for round in 0..30 {
        assert!(encode(&data, Compression::Gzip, 8, 1 << 20) == expected, "{round}");
    }
}

#[test]
fn the_bytes_stay_as_they_are() {
    // A change here changes the digest of every blob that is compressed anew: it belongs into the changelog.
    let data = sample(300_000);
    for (compression, expected) in [
        (Compression::Gzip, "sha256:cd04b1b626e3188a0a4488582daa285b9aa580ce16d37a06ed17e672085309a1"),
        (Compression::Zstd, "sha256:0fff38813899e35d94267be951ef2986e1d0baeee0f3afc0fb7b2d6ae6af987d"),
    ] {
        let digest = oci::Digest::sha256(&encode(&data, compression, 2, 1 << 16));
        assert_eq!(digest.to_string(), expected, "{compression:?}");
    }
}

#[test]
fn every_level_of_gzip_comes_back_and_depends_on_nothing_else() {
    let data = sample(600_000);
    for level in 0..=9 {
        let encode = |threads| {
            let mut encoder = Encoder::with_level(Vec::new(), Compression::Gzip, Some(level), threads).unwrap();
            encoder.write_all(&data).unwrap();
            encoder.finish().unwrap()
        };
        let bytes = encode(1);
        assert!((2..=8).all(|threads| encode(threads) == bytes), "{level}");
        assert!(decode(bytes).unwrap() == (Format::Gzip, data.clone()), "{level}");
    }
}

#[test]
fn gzip_is_one_member_without_a_time_and_with_the_size() {
    let bytes = encode(&[0; 1024], Compression::Gzip, 2, 100);
    assert_eq!(bytes[..10], [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255]);
    assert_eq!(bytes[bytes.len() - 4..], [0, 4, 0, 0]);
    let mut single = flate2::read::GzDecoder::new(bytes.as_slice());
    let mut plain = Vec::new();
    single.read_to_end(&mut plain).unwrap();
    assert_eq!(plain, [0; 1024]);
}

#[test]
fn many_members_and_frames_are_read_as_one() {
    let (one, two) = (sample(200_000), sample(70_000));
    for compression in [Compression::Gzip, Compression::Zstd] {
        let both = [encode(&one, compression, 1, 1 << 20), encode(&two, compression, 1, 1 << 20)].concat();
        assert!(decode(both).unwrap().1 == [one.clone(), two.clone()].concat(), "{compression:?}");
    }
    // zstd:chunked has frames to skip.
    let skip = [0x5e, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3];
    let bytes = [&skip, encode(b"abc", Compression::Zstd, 1, 10).as_slice(), &skip].concat();
    assert_eq!(decode(bytes).unwrap(), (Format::Zstd, b"abc".to_vec()));
}

fn bzip2(data: &[u8]) -> Vec<u8> {
    let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::new(1));
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn xz(data: &[u8]) -> Vec<u8> {
    let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn what_is_cut_off_or_damaged_is_an_error() {
    let data = sample(400_000);
    for (format, bytes) in [
        (Format::Gzip, encode(&data, Compression::Gzip, 1, 1 << 20)),
        (Format::Zstd, encode(&data, Compression::Zstd, 1, 1 << 20)),
        (Format::Bzip2, bzip2(&data)),
        (Format::Xz, xz(&data)),
    ] {
        assert!(decode(bytes.clone()).unwrap() == (format, data.clone()), "{format:?}");
        for end in [7, 9, 20, 1000, bytes.len() / 2, bytes.len() - 9, bytes.len() - 5, bytes.len() - 1] {
            assert!(decode(bytes[..end].to_vec()).is_err(), "{format:?} of {} at {end}", bytes.len());
        }
        let mut damaged = bytes.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x55;
        assert!(decode(damaged).is_err(), "{format:?}");
    }
}

#[test]
fn bzip2_and_xz_in_pieces_are_read_as_one() {
    for compress in [bzip2, xz] {
        assert_eq!(decode([compress(b"abc"), compress(b"def")].concat()).unwrap().1, b"abcdef");
    }
}

#[test]
fn an_encoder_can_be_dropped_halfway() {
    let mut encoder = Encoder::new(io::sink(), Compression::Gzip, 4).unwrap();
    encoder.write_all(&sample(3_000_000)).unwrap();
    drop(encoder);
}

#[test]
fn a_sink_that_fails_is_told() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self.0.checked_sub(bytes.len()).ok_or_else(|| io::Error::from(io::ErrorKind::StorageFull))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    for compression in [Compression::None, Compression::Gzip, Compression::Zstd] {
        let mut encoder = Encoder::new(Full(100_000), compression, 2).unwrap();
        let result = encoder.write_all(&sample(3_000_000)).and_then(|()| encoder.finish().map(drop));
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::StorageFull, "{compression:?}");
    }
}

#[test]
fn a_level_that_gzip_lacks_is_refused() {
    for level in [-1, 10] {
        assert!(Encoder::with_level(io::sink(), Compression::Gzip, Some(level), 1).is_err());
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(start in 0usize..5, bytes: Vec<u8>) {
        let magic: [&[u8]; 5] = [
            b"", &[0x1f, 0x8b, 8], &[0x28, 0xb5, 0x2f, 0xfd], b"BZh9", &[0xfd, b'7', b'z', b'X', b'Z', 0],
        ];
        let _ = decode([magic[start], &bytes].concat());
    }
}
