//! What a chunk looks like before it is sealed: one byte and the payload. The byte is 0 where the payload is
//! the chunk as it is, 1 where it is zstd, 2 where it is the chunk's words taken apart into rows: how long each
//! row is as it is stored, and the rows, each as it is or, where it is shorter so, zstd.
//!
//! Vectors of numbers do not compress as they stand: a float's last bytes are noise, and they lie between the
//! first ones, which are much alike. All first bytes in a row, then all second ones and so on, need a tenth
//! less, and are coded three times as fast, since only what repeats is looked at.

use std::cell::RefCell;
use std::io::{self, Cursor};

use bytes::Bytes;
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, ParamSwitch, compress_bound};

use crate::format::Malformed;

const RAW: u8 = 0;
const ZSTD: u8 = 1;
const WORDS: u8 = 2;
const LEVEL: i32 = 3;
/// Of a small chunk: there is little to find, and a quarter of the time of a longer search is its set-up. Records
/// with numbers come out as small as by it or smaller, texts some hundredths larger.
const SMALL_LEVEL: i32 = 1;
/// What a quick look hardly makes smaller, a thorough one does not either: of random values between keys it
/// finds the keys, in a third of the time.
const QUICK_LEVEL: i32 = -1;
/// Of a hundred bytes of the sample so many are left by a quick look, or more.
const HARDLY: usize = 80;
/// No search for what came before, which numbers do not repeat: only the entropy of their bytes is used.
const WORDS_LEVEL: i32 = -1000;
/// Bytes of a word.
const WORD: usize = 4;
/// Before the rows: the kind, and how long each is.
const WORDS_HEAD: usize = 1 + 4 * WORD;
/// A smaller chunk is not looked at for words.
const WORDS_FROM: usize = 32 << 10;
/// So many stretches of a chunk, of so many bytes each, tell what it is made of.
const SAMPLES: usize = 4;
const SAMPLE: usize = 4 << 10;
/// Of a chunk that is not looked at for words, one does.
const SAMPLED_FROM: usize = 2 * SAMPLE;

thread_local! {
    // Contexts and buffers cost set-up and page faults; each thread keeps its own.
    static CODER: RefCell<Option<Coder>> = const { RefCell::new(None) };
    static DECODER: RefCell<Option<Decoder>> = const { RefCell::new(None) };
}

struct Coder {
    whole: Compressor<'static>,
    small: Compressor<'static>,
    quick: Compressor<'static>,
    words: Compressor<'static>,
    apart: Vec<u8>,
    encoded: Vec<u8>,
}

/// How a chunk is compressed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Thorough,
    Small,
    Quick,
    /// Taken apart; these rows are noise, and stored as they are.
    Words([bool; WORD]),
}

struct Decoder {
    frames: Decompressor<'static>,
    apart: Vec<u8>,
}

/// Encodes a chunk, compressed where that makes it smaller, and hands it to `then`.
pub fn encode<T>(plain: &[u8], then: impl FnOnce(&[u8]) -> T) -> T {
    CODER.with_borrow_mut(|slot| match slot.take().map_or_else(Coder::new, Ok) {
        Ok(mut coder) => {
            coder.encode(plain);
            let done = then(&coder.encoded);
            *slot = Some(coder);
            done
        }
        // It is stored without compression rather than not at all.
        Err(_) => then(&[&[RAW], plain].concat()),
    })
}

impl Coder {
    fn new() -> io::Result<Coder> {
        let mut words = Compressor::new(WORDS_LEVEL)?;
        words.set_parameter(CParameter::LiteralCompressionMode(ParamSwitch::Enable))?;
        let [whole, small, quick] = [LEVEL, SMALL_LEVEL, QUICK_LEVEL].map(Compressor::new);
        let (apart, encoded) = (Vec::new(), Vec::new());
        Ok(Coder { whole: whole?, small: small?, quick: quick?, words, apart, encoded })
    }

    /// Leaves the chunk in `encoded`.
    fn encode(&mut self, plain: &[u8]) {
        let way = self.way(plain);
        let compressed = self.encode_in(way, plain);
        if compressed.is_err() || self.encoded.len() > plain.len() {
            self.encoded.clear();
            self.encoded.push(RAW);
            self.encoded.extend_from_slice(plain);
        }
    }

    fn encode_in(&mut self, way: Way, plain: &[u8]) -> io::Result<()> {
        self.encoded.clear();
        let compressor = match way {
            Way::Words(noise) => return self.encode_words(noise, plain),
            Way::Thorough => &mut self.whole,
            Way::Small => &mut self.small,
            Way::Quick => &mut self.quick,
        };
        self.encoded.push(ZSTD);
        append(compressor, plain, &mut self.encoded)
    }

    fn encode_words(&mut self, noise: [bool; WORD], plain: &[u8]) -> io::Result<()> {
        let lengths = row_lengths(plain.len());
        // The first rows are often noise, and are made where they stay.
        let in_place = noise.iter().take_while(|noise| **noise).count();
        let kept = WORDS_HEAD + lengths[..in_place].iter().sum::<usize>();
        self.encoded.resize(kept, 0);
        // It only grows: what is there is written over.
        if self.apart.len() < plain.len() {
            self.apart.resize(plain.len(), 0);
        }
        let (mut here, mut apart) = (&mut self.encoded[WORDS_HEAD..], &mut self.apart[..]);
        take_apart(
            plain,
            std::array::from_fn(|row| {
                let from = if row < in_place { &mut here } else { &mut apart };
                from.split_off_mut(..lengths[row]).unwrap_or_default()
            }),
        );
        let (mut stored, mut at) = (lengths, 0);
        for row in in_place..WORD {
            let bytes = &self.apart[at..at + lengths[row]];
            at += bytes.len();
            stored[row] = append_row(&mut self.words, noise[row], bytes, &mut self.encoded)?;
        }
        self.encoded[0] = WORDS;
        for (field, length) in self.encoded[1..WORDS_HEAD].chunks_exact_mut(4).zip(stored) {
            field.copy_from_slice(&(length as u32).to_le_bytes());
        }
        Ok(())
    }

    /// How to compress a chunk, as samples of it tell. Words are what hardly compresses as it stands, and does
    /// taken apart.
    fn way(&mut self, plain: &[u8]) -> Way {
        if plain.len() < SAMPLED_FROM {
            return Way::Small;
        }
        if plain.len() < WORDS_FROM {
            let begin = (plain.len() - SAMPLE) / 2;
            return self.quick_where_enough(&plain[begin..begin + SAMPLE]);
        }
        let mut sample = Vec::with_capacity(SAMPLES * SAMPLE);
        for number in 0..SAMPLES {
            let at = (plain.len() - SAMPLE) / (SAMPLES - 1) * number / WORD * WORD;
            sample.extend_from_slice(&plain[at..at + SAMPLE]);
        }
        let whole = self.size_in(Way::Thorough, &sample);
        if whole * 10 > sample.len() * 7
            && self.size_in(Way::Words([false; WORD]), &sample) * 100 < whole * 97
        {
            let (stored, whole) = (stored_lengths(&self.encoded[1..]), row_lengths(sample.len()));
            return Way::Words(std::array::from_fn(|row| stored[row] == whole[row]));
        }
        self.quick_where_enough(&sample)
    }

    /// Quick for what it shrinks hardly: a thorough search would hardly find more. Where it shrinks nothing,
    /// single bytes may still be worth coding, as those of vectors are.
    fn quick_where_enough(&mut self, sample: &[u8]) -> Way {
        let quick = self.size_in(Way::Quick, sample);
        if quick < sample.len() && quick * 100 > sample.len() * HARDLY { Way::Quick } else { Way::Thorough }
    }

    /// What a sample comes to; endless where it cannot be compressed.
    fn size_in(&mut self, way: Way, sample: &[u8]) -> usize {
        self.encode_in(way, sample).map_or(usize::MAX >> 8, |()| self.encoded.len())
    }
}

/// Appends a frame.
fn append(compressor: &mut Compressor<'_>, plain: &[u8], encoded: &mut Vec<u8>) -> io::Result<()> {
    encoded.reserve(compress_bound(plain.len()));
    let mut end = Cursor::new(std::mem::take(encoded));
    end.set_position(end.get_ref().len() as u64);
    let done = compressor.compress_to_buffer(plain, &mut end);
    *encoded = end.into_inner();
    done.map(|_| ())
}

/// The rows of the words of so many bytes. What makes no whole word is the end of the last one.
fn row_lengths(length: usize) -> [usize; WORD] {
    let row = length / WORD;
    std::array::from_fn(|number| if number == WORD - 1 { length - number * row } else { row })
}

/// How long each row is as it is stored, as the payload begins with.
fn stored_lengths(payload: &[u8]) -> [usize; WORD] {
    let (fields, _) = payload.as_chunks();
    std::array::from_fn(|row| fields.get(row).map_or(0, |field| u32::from_le_bytes(*field)) as usize)
}

/// Appends a row and tells how long it is there. Each has its own frame, and with it its own statistics.
fn append_row(
    compressor: &mut Compressor<'_>,
    noise: bool,
    row: &[u8],
    encoded: &mut Vec<u8>,
) -> io::Result<usize> {
    let begin = encoded.len();
    if !noise {
        append(compressor, row, encoded)?;
    }
    if noise || encoded.len() - begin >= row.len() {
        encoded.truncate(begin);
        encoded.extend_from_slice(row);
    }
    Ok(encoded.len() - begin)
}

/// All first bytes of the words into the first row, all second ones into the second and so on.
fn take_apart(plain: &[u8], rows: [&mut [u8]; WORD]) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn with_avx2(plain: &[u8], rows: [&mut [u8]; WORD]) {
            words_to_rows(plain, rows);
        }
        // SAFETY: the processor has what the function needs. It is five times as fast with it.
        return unsafe { with_avx2(plain, rows) };
    }
    words_to_rows(plain, rows);
}

#[inline(always)]
fn words_to_rows(plain: &[u8], rows: [&mut [u8]; WORD]) {
    let [a, b, c, d] = rows;
    let row = plain.len() / WORD;
    let (words, rest) = plain.split_at(WORD * row);
    let (d, end) = d.split_at_mut(row);
    // Slices of one length, so that the compiler makes vector instructions of it.
    for ((((word, a), b), c), d) in words.chunks_exact(WORD).zip(a).zip(b).zip(c).zip(d) {
        (*a, *b, *c, *d) = (word[0], word[1], word[2], word[3]);
    }
    end.copy_from_slice(rest);
}

/// The way back.
fn put_together(rows: [&[u8]; WORD]) -> Vec<u8> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        #[target_feature(enable = "avx2")]
        fn with_avx2(rows: [&[u8]; WORD]) -> Vec<u8> {
            rows_to_words(rows)
        }
        // SAFETY: as above.
        return unsafe { with_avx2(rows) };
    }
    rows_to_words(rows)
}

#[inline(always)]
fn rows_to_words(rows: [&[u8]; WORD]) -> Vec<u8> {
    let [a, b, c, d] = rows;
    let (d, end) = d.split_at(a.len());
    let mut plain = vec![0; WORD * a.len() + end.len()];
    let (words, rest) = plain.split_at_mut(WORD * a.len());
    for ((((word, a), b), c), d) in words.chunks_exact_mut(WORD).zip(a).zip(b).zip(c).zip(d) {
        (word[0], word[1], word[2], word[3]) = (*a, *b, *c, *d);
    }
    rest.copy_from_slice(end);
    plain
}

/// The plain bytes, `length` of them.
pub fn decode(encoded: &[u8], length: usize) -> Result<Bytes, Malformed> {
    let plain: Bytes = match encoded.split_first() {
        Some((&RAW, payload)) => Bytes::copy_from_slice(payload),
        _ => unpack(encoded, length)?.into(),
    };
    if plain.len() == length { Ok(plain) } else { Err(Malformed::Length(plain.len())) }
}

/// Shows the plain bytes, `length` of them, where nobody needs to keep them.
pub fn show<T>(encoded: &[u8], length: usize, to: impl FnOnce(&[u8]) -> T) -> Result<T, Malformed> {
    match encoded.split_first() {
        Some((&RAW, plain)) if plain.len() == length => Ok(to(plain)),
        _ => Ok(to(&decode(encoded, length)?)),
    }
}

fn unpack(encoded: &[u8], length: usize) -> Result<Vec<u8>, Malformed> {
    let (&kind, payload) = encoded.split_first().ok_or(Malformed::Length(0))?;
    match kind {
        ZSTD | WORDS => decompress(kind, payload, length).map_err(|e| Malformed::Decode(e.to_string())),
        other => Err(Malformed::Decode(format!("compression {other} is not known"))),
    }
}

fn decompress(kind: u8, payload: &[u8], length: usize) -> io::Result<Vec<u8>> {
    DECODER.with_borrow_mut(|slot| {
        let mut decoder = match slot.take() {
            Some(decoder) => decoder,
            None => Decoder { frames: Decompressor::new()?, apart: Vec::new() },
        };
        let plain = match kind {
            WORDS => decoder.decode_words(payload, length),
            _ => decoder.frames.decompress(payload, length),
        };
        *slot = Some(decoder);
        plain
    })
}

impl Decoder {
    fn decode_words(&mut self, payload: &[u8], length: usize) -> io::Result<Vec<u8>> {
        let wrong = || io::Error::other("the rows are not as long as they are said to be");
        let (head, mut stored) = payload.split_at_checked(WORDS_HEAD - 1).ok_or_else(wrong)?;
        if self.apart.len() < length {
            self.apart.resize(length, 0);
        }
        let (mut apart, mut rows) = (&mut self.apart[..], [&[][..]; WORD]);
        for ((row, length), stored_length) in
            rows.iter_mut().zip(row_lengths(length)).zip(stored_lengths(head))
        {
            *row = stored.split_off(..stored_length).ok_or_else(wrong)?;
            if stored_length != length {
                let place = apart.split_off_mut(..length).ok_or_else(wrong)?;
                if self.frames.decompress_to_buffer(row, place)? != length {
                    return Err(wrong());
                }
                *row = place;
            }
        }
        if stored.is_empty() { Ok(put_together(rows)) } else { Err(wrong()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::{Random, Seeded};

    fn encode(plain: &[u8]) -> Vec<u8> {
        super::encode(plain, <[u8]>::to_vec)
    }

    /// Numbers from -1 to 1, of which only the last three bytes are noise.
    fn floats(count: usize) -> Vec<u8> {
        let mut noise = vec![0; 4 * count];
        Seeded::new(3).fill(&mut noise);
        let float = |word: &[u8]| i32::from_le_bytes(word.try_into().unwrap()) as f32 / i32::MAX as f32;
        noise.chunks(4).flat_map(|word| float(word).to_le_bytes()).collect()
    }

    #[test]
    fn vectors_are_taken_apart_and_need_less() {
        let plain = floats(100_000);
        let whole = zstd::bulk::compress(&plain, LEVEL).unwrap().len();
        for length in [plain.len(), plain.len() - 1, plain.len() - 2, plain.len() - 3, WORDS_FROM] {
            // They need not begin with a word.
            for plain in [&plain[..length], &plain[1..length]] {
                let encoded = encode(plain);
                assert_eq!(decode(&encoded, plain.len()).unwrap(), plain);
                assert_eq!(encoded[0], if plain.len() < WORDS_FROM { ZSTD } else { WORDS });
            }
        }
        assert!(encode(&plain).len() * 100 < whole * 95, "{} {whole}", encode(&plain).len());
    }

    /// Words whose bytes at some places are noise, and at the others alike.
    fn words(count: usize, noise: [bool; WORD]) -> Vec<u8> {
        let mut bytes = vec![0; WORD * count];
        Seeded::new(5).fill(&mut bytes);
        let place = |(at, byte)| if noise[at % WORD] { byte } else { byte & 7 };
        bytes.into_iter().enumerate().map(place).collect()
    }

    #[test]
    fn a_row_of_noise_is_kept_as_it_is_wherever_it_stands() {
        for mask in 1..15_u8 {
            let noise = std::array::from_fn(|row| mask & 1 << row != 0);
            let plain = words(100_000, noise);
            let mut coder = Coder::new().unwrap();
            coder.encode_in(Way::Words(noise), &plain).unwrap();
            let stored = stored_lengths(&coder.encoded[1..]);
            assert_eq!(stored.map(|length| length == 100_000), noise);
            assert_eq!(decode(&coder.encoded, plain.len()).unwrap(), plain);
            // Noise that was not foreseen comes out the same.
            let foreseen = coder.encoded.clone();
            coder.encode_in(Way::Words([false; WORD]), &plain).unwrap();
            assert_eq!(coder.encoded, foreseen);
        }
    }

    #[test]
    fn rows_that_are_not_what_they_are_said_to_be_are_refused() {
        let plain = words(10_000, [true, true, false, false]);
        let encoded = encode(&plain);
        assert_eq!(encoded[0], WORDS);
        for end in (1..encoded.len()).step_by(97).chain([5, WORDS_HEAD - 1, WORDS_HEAD, encoded.len() - 1]) {
            assert!(decode(&encoded[..end], plain.len()).is_err(), "cut at {end}");
        }
        for at in 1..WORDS_HEAD {
            for wrong in [0, 1, 255] {
                let mut bad = encoded.clone();
                bad[at] = bad[at].wrapping_add(wrong);
                assert_eq!(decode(&bad, plain.len()).is_err(), wrong != 0, "byte {at}");
            }
        }
        for length in [0, 1, plain.len() - 4, plain.len() + 4, 10 * plain.len()] {
            assert!(decode(&encoded, length).is_err(), "{length}");
        }
    }

    #[test]
    fn text_and_noise_are_not_taken_apart() {
        let text: String = (0..20_000).map(|n| format!("{{\"id\":{},\"name\":\"n{n}\"}}\n", n * n)).collect();
        assert_eq!(encode(text.as_bytes())[0], ZSTD);
        let mut noise = vec![0; 1 << 20];
        Seeded::new(1).fill(&mut noise);
        assert_eq!(encode(&noise)[0], RAW);
    }

    /// Entries of random values between keys, as trees of etcd have them, and of values that are alike.
    fn node(value: impl Fn(&mut [u8])) -> Vec<u8> {
        let entry = |n: usize| {
            let mut entry = format!("/registry/{}/namespace-{:02}/{n:08}", n % 7, n % 100).into_bytes();
            entry.resize(entry.len() + 256, b'x');
            let at = entry.len() - 256;
            value(&mut entry[at..]);
            entry
        };
        (0..100).flat_map(entry).collect()
    }

    #[test]
    fn a_quick_look_is_enough_where_a_thorough_one_finds_no_more() {
        let random = Seeded::new(2);
        let (noise, alike) = (node(|value| random.fill(value)), node(|_| {}));
        let mut coder = Coder::new().unwrap();
        assert!(coder.way(&noise) == Way::Quick && coder.way(&alike) == Way::Thorough);
        // Chunks that are looked at for words, too.
        assert!(coder.way(&noise.repeat(2)) == Way::Quick && coder.way(&alike.repeat(2)) == Way::Thorough);
        let thorough = zstd::bulk::compress(&noise, LEVEL).unwrap().len();
        assert!(encode(&noise).len() * 100 < thorough * 102, "{} {thorough}", encode(&noise).len());
        assert_eq!(decode(&encode(&noise), noise.len()).unwrap(), noise);
    }

    #[test]
    fn what_does_not_compress_grows_by_one_byte_and_the_rest_shrinks() {
        let mut noise = vec![0; 10_000];
        Seeded::new(1).fill(&mut noise);
        assert_eq!(encode(&noise).len(), noise.len() + 1);
        assert!(encode(&[0; 10_000]).len() < 100);
        for plain in [&noise[..], &[0; 10_000], b"", b"x"] {
            assert_eq!(decode(&encode(plain), plain.len()).unwrap(), plain);
        }
    }

    #[test]
    fn a_wrong_length_is_refused() {
        for plain in [&[0; 1000][..], b"ab"] {
            assert!(decode(&encode(plain), plain.len() + 1).is_err());
            assert!(decode(&encode(plain), plain.len() - 1).is_err());
        }
        assert!(decode(b"", 0).is_err());
        assert!(decode(b"\x09abc", 3).is_err());
    }
}
