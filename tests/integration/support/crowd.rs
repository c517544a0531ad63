use std::time::Duration;

use super::SOON;

/// Many resources of one kind: as many as a test usually has, or `TESTBED_CROWD`, for a run by hand.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    pub many: usize,
    usual: usize,
}

impl Crowd {
    pub fn of(usual: usize) -> Self {
        let told = std::env::var("TESTBED_CROWD").ok();
        let told = told.map(|many| many.parse().expect("TESTBED_CROWD is a number"));
        let many = told.unwrap_or(usual);
        Self { many, usual }
    }

    pub fn is_large(self) -> bool {
        self.many > self.usual
    }

    /// How long what is done for all of them may take.
    pub fn soon(self) -> Duration {
        let times = self.many.div_ceil(self.usual);
        SOON * u32::try_from(times).unwrap_or(u32::MAX)
    }

    /// Figures are told where somebody has asked for a size.
    #[expect(clippy::print_stdout, reason = "somebody wants to see them")]
    pub fn tell(self, figures: &str) {
        if std::env::var_os("TESTBED_CROWD").is_some() {
            println!("{} resources: {figures}", self.many);
        }
    }
}
