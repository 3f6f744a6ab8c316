//! The screen of a terminal, as its output has drawn it, for viewers that come late or fall behind.
//!
//! The parser is given whole control sequences only. What is unfinished waits, so that a viewer which begins with the drawn
//! screen continues with the beginning of a sequence, not with its middle.

use std::panic::{AssertUnwindSafe, catch_unwind};

use super::pty::Size;

/// Lines above the screen that are kept.
const SCROLLBACK_ROWS: usize = 500;
/// A longer sequence is given to the parser in parts.
const UNFINISHED_BYTES_MAX: usize = 4 * 1024;

pub struct Screen {
    parser: vt100::Parser,
    size: Size,
    sequence: Sequence,
    unfinished: Vec<u8>,
    /// Offset in the output up to which the screen is drawn.
    offset: u64,
}

impl Screen {
    pub fn new(size: Size) -> Screen {
        Screen {
            parser: parser_of(size),
            size,
            sequence: Sequence::None,
            unfinished: Vec::new(),
            offset: 0,
        }
    }

    pub fn size(&self) -> Size {
        self.size
    }

    /// Offset of the first byte of output that is not in the screen.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Draws more output.
    pub fn feed(&mut self, bytes: &[u8]) {
        let mut whole = 0;
        for (index, byte) in bytes.iter().enumerate() {
            self.sequence = self.sequence.after(*byte);
            if self.sequence == Sequence::None {
                whole = index + 1;
            }
        }
        let (whole, rest) = bytes.split_at(whole);
        if !whole.is_empty() {
            self.draw_unfinished();
            self.draw(whole);
        }
        self.unfinished.extend_from_slice(rest);
        if self.unfinished.len() > UNFINISHED_BYTES_MAX {
            self.draw_unfinished();
        }
    }

    pub fn resize(&mut self, size: Size) {
        self.size = size;
        self.guarded(|parser| parser.set_size(nonzero(size.rows), nonzero(size.cols)));
    }

    /// The bytes that draw this screen in a terminal of the same size, whatever it was in the middle of.
    pub fn drawn(&mut self, with_scrollback: bool) -> Vec<u8> {
        // CAN ends an unfinished sequence. Modes are reset without clearing what the terminal shows.
        let mut bytes = b"\x18\x1b[!p\x1b(B\x0f\x1b[?1000;1002;1003;1005;1006;2004l".to_vec();
        let mut drawing = Vec::new();
        self.guarded(|parser| {
            if with_scrollback {
                drawing.extend(scrollback(parser));
            }
            let screen = parser.screen();
            let alternate = if screen.alternate_screen() { 'h' } else { 'l' };
            drawing.extend(format!("\x1b[?1049{alternate}{}", screen.state_formatted()).into_bytes());
        });
        bytes.extend(drawing);
        bytes
    }

    fn draw_unfinished(&mut self) {
        let unfinished = std::mem::take(&mut self.unfinished);
        self.draw(&unfinished);
    }

    fn draw(&mut self, bytes: &[u8]) {
        self.offset += bytes.len() as u64;
        self.guarded(|parser| parser.process(bytes));
    }

    /// Output is any program's. Were the parser to panic over it, the screen would begin empty, and the agent would continue.
    fn guarded(&mut self, work: impl FnOnce(&mut vt100::Parser)) {
        let parser = &mut self.parser;
        if catch_unwind(AssertUnwindSafe(|| work(parser))).is_err() {
            self.parser = parser_of(self.size);
        }
    }
}

fn parser_of(size: Size) -> vt100::Parser {
    vt100::Parser::new(nonzero(size.rows), nonzero(size.cols), SCROLLBACK_ROWS)
}

fn nonzero(count: u16) -> std::num::NonZeroU16 {
    std::num::NonZeroU16::new(count).expect("a size was checked before")
}

/// The lines above the screen, and as many empty ones as push them out of it.
fn scrollback(parser: &mut vt100::Parser) -> Vec<u8> {
    let screen = parser.screen_mut();
    let (rows, cols) = screen.size();
    let rows = usize::from(rows.get());
    let mut left = if screen.alternate_screen() {
        0
    } else {
        screen.scrollback_len()
    };
    if left == 0 {
        return Vec::new();
    }
    let mut bytes = Vec::new();
    while left > 0 {
        screen.set_scrollback(left);
        for row in screen.rows_formatted(0, cols.get()).take(left.min(rows)) {
            bytes.extend(row.into_bytes());
            bytes.extend(b"\x1b[m\r\n");
        }
        left = left.saturating_sub(rows);
    }
    screen.set_scrollback(0);
    bytes.extend(b"\n".repeat(rows));
    bytes
}

/// How far into a control sequence or a character the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sequence {
    None,
    /// Bytes that a character of UTF-8 still needs.
    Character(u8),
    Escape,
    Control,
    /// A string that BEL or ESC \ ends.
    Text,
    TextEscape,
}

impl Sequence {
    fn after(self, byte: u8) -> Sequence {
        match (self, byte) {
            // CAN and SUB end whatever is unfinished.
            (_, 0x18 | 0x1a) => Sequence::None,
            (Sequence::Text, 0x07) => Sequence::None,
            (Sequence::Text, 0x1b) => Sequence::TextEscape,
            (Sequence::Text, _) => Sequence::Text,
            (_, 0x1b) => Sequence::Escape,
            (Sequence::Escape | Sequence::TextEscape, b'[') => Sequence::Control,
            (Sequence::Escape | Sequence::TextEscape, b']' | b'P' | b'X' | b'^' | b'_') => Sequence::Text,
            (Sequence::Escape | Sequence::TextEscape, 0x20..=0x2f | ..0x20) => Sequence::Escape,
            (Sequence::Control, 0x40..=0x7e) => Sequence::None,
            (Sequence::Control, _) => Sequence::Control,
            (Sequence::Character(left @ 2..), 0x80..=0xbf) => Sequence::Character(left - 1),
            (Sequence::Escape | Sequence::TextEscape | Sequence::Character(_), 0x80..=0xbf) => Sequence::None,
            (_, 0xc2..=0xdf) => Sequence::Character(1),
            (_, 0xe0..=0xef) => Sequence::Character(2),
            (_, 0xf0..=0xf4) => Sequence::Character(3),
            _ => Sequence::None,
        }
    }
}

#[cfg(test)]
mod tests {
    //! Proves that a drawn screen and the output after it show in a terminal what the whole output shows.

    use super::*;
    use proptest::prelude::*;

    const SIZE: Size = Size { rows: 6, cols: 20 };

    fn output() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            "[ -~]{1,12}".prop_map(String::into_bytes),
            prop::sample::select(vec![
                "\r\n",
                "\n",
                "\t",
                "\x08",
                "é",
                "漢",
                "\x1b[H",
                "\x1b[2J",
                "\x1b[3;4H",
                "\x1b[31;1m",
                "\x1b[m",
                "\x1b[K",
                "\x1b[?1049h",
                "\x1b[?1049l",
                "\x1b[?25l",
                "\x1b[?25h",
                "\x1b]0;title\x07",
                "\x1b]52;c;AAAA\x1b\\",
                "\x1bM",
                "\x1b[2L",
                "\x1b[?2004h",
                "\x1b7",
                "\x1b8",
            ])
            .prop_map(|text| text.as_bytes().to_vec()),
            prop::collection::vec(any::<u8>(), 0..6),
        ];
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn cuts_change_nothing(output in output(), cut in any::<prop::sample::Index>()) {
            let mut whole = Screen::new(SIZE);
            whole.feed(&output);
            let at = cut.index(output.len() + 1);
            let mut parts = Screen::new(SIZE);
            parts.feed(&output[..at]);
            parts.feed(&output[at..]);
            prop_assert_eq!(whole.offset(), parts.offset());
            prop_assert_eq!(whole.parser.screen().contents(), parts.parser.screen().contents());
            prop_assert!(whole.unfinished.len() <= UNFINISHED_BYTES_MAX);
        }

        #[test]
        fn a_drawn_screen_shows_the_same(output in output(), garbage in output()) {
            let mut screen = Screen::new(SIZE);
            screen.feed(&output);
            let mut viewer = parser_of(SIZE);
            viewer.process(&garbage);
            viewer.process(&screen.drawn(false));
            let (shown, drawn) = (viewer.screen(), screen.parser.screen());
            prop_assert_eq!(shown.contents(), drawn.contents());
            prop_assert_eq!(shown.cursor_position(), drawn.cursor_position());
            prop_assert_eq!(shown.alternate_screen(), drawn.alternate_screen());
            prop_assert_eq!(shown.bracketed_paste(), drawn.bracketed_paste());
        }

        #[test]
        fn any_bytes_and_any_size_are_survived(
            steps in prop::collection::vec((output(), 1u16..60, 1u16..60), 0..12),
        ) {
            let mut screen = Screen::new(SIZE);
            for (output, rows, cols) in steps {
                screen.feed(&output);
                screen.resize(Size { rows, cols });
                screen.drawn(true);
            }
        }
    }

    #[test]
    fn a_late_viewer_gets_the_lines_above_the_screen() {
        let mut screen = Screen::new(SIZE);
        for number in 0..30 {
            screen.feed(format!("line {number}\r\n").as_bytes());
        }
        let mut viewer = vt100::Parser::new(nonzero(SIZE.rows), nonzero(SIZE.cols), 100);
        viewer.process(&screen.drawn(true));
        assert_eq!(viewer.screen().contents(), screen.parser.screen().contents());
        viewer.screen_mut().set_scrollback(usize::MAX);
        assert!(viewer.screen().contents().starts_with("line 0\nline 1\n"));
    }

    #[test]
    fn a_sequence_that_is_unfinished_is_left_to_the_output() {
        let mut screen = Screen::new(SIZE);
        screen.feed(b"ab\x1b[3");
        assert_eq!(screen.offset(), 2);
        screen.feed(b"1mc");
        assert_eq!(screen.offset(), 8);
    }
}
