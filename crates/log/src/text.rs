//! Plain text out of text that quotes a program, a file or a caller.

use std::fmt::Write;

/// The longest plain text, in characters.
const CHARS_MAX: usize = 1000;

/// Makes `text` one line of limited length. Characters that a terminal would act upon are shown as escapes.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len().min(CHARS_MAX));
    for (index, char) in text.chars().enumerate() {
        if index == CHARS_MAX {
            let _ = write!(out, "… ({} bytes in all)", text.len());
            break;
        }
        if is_plain(char) {
            out.push(char);
        } else {
            out.extend(char.escape_unicode());
        }
    }
    out
}

/// True unless the character is a control character, or reorders or hides its neighbours.
fn is_plain(char: char) -> bool {
    !char.is_control()
        && !matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_upon_is_shown_and_one_line_stays_one_line() {
        assert_eq!(plain("as it is: ä, 中"), "as it is: ä, 中");
        assert_eq!(
            plain("a\nforkd-pager: b\r\u{1b}[2J"),
            "a\\u{a}forkd-pager: b\\u{d}\\u{1b}[2J"
        );
        assert_eq!(plain("x\u{202e}y\u{85}"), "x\\u{202e}y\\u{85}");
    }

    #[test]
    fn what_is_too_long_is_cut_and_that_is_said() {
        let long = "ä".repeat(CHARS_MAX + 1);
        let cut = plain(&long);
        assert!(cut.starts_with(&"ä".repeat(CHARS_MAX)), "the beginning is kept");
        assert!(cut.ends_with("… (2002 bytes in all)"), "{cut}");
        assert_eq!(plain(&"x".repeat(CHARS_MAX)).len(), CHARS_MAX);
    }
}
