//! The languages that can be kept warm. A new one is a new row, and a driver program that speaks as `driver.py` does.

pub struct Language {
    pub name: &'static str,
    pub program: &'static str,
    /// Arguments before the four descriptor numbers and the generation page.
    pub args: &'static [&'static str],
}

const LANGUAGES: [Language; 1] = [Language {
    name: "python",
    program: "python3",
    args: &["-c", include_str!("driver.py")],
}];

pub const DEFAULT: &str = LANGUAGES[0].name;

pub fn find(name: &str) -> Option<&'static Language> {
    LANGUAGES.iter().find(|language| language.name == name)
}
