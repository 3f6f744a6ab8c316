//! Templates in which some bytes are one fork's own, so that its guest draws random numbers of its own. See
//! `forkd_protocol::refresh`.

use crate::template::{RefreshedTemplate, SourceError, Template};
use forkd_linux_sys::{PAGE_SIZE, random};
use forkd_protocol::Refresh;
use forkd_protocol::refresh::{Fresh, REFRESH_BYTES_MAX, check_all};
use std::io;
use std::sync::Arc;

/// Why a template could not be refreshed.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    /// The list of refreshes cannot be right for this template.
    #[error("{0}")]
    Invalid(String),
    #[error("reading the template: {0}")]
    Source(#[from] SourceError),
    #[error("drawing random bytes: {0}")]
    Random(#[from] io::Error),
}

/// The template with `refreshes` applied, for one fork. Without any, it is `template` itself.
pub fn refreshed(template: Arc<dyn Template>, refreshes: &[Refresh]) -> Result<Arc<dyn Template>, RefreshError> {
    if refreshes.is_empty() {
        return Ok(template);
    }
    check_all(refreshes, template.pages() * PAGE_SIZE as u64).map_err(RefreshError::Invalid)?;
    let mut own = RefreshedTemplate::new(template);
    for refresh in refreshes {
        let mut changed = Ok(());
        own.change(refresh.at, refresh.bytes as usize, |bytes| {
            changed = change(refresh, bytes);
        })?;
        changed?;
    }
    Ok(Arc::new(own))
}

/// Applies `refresh` to `bytes`, which are what it names, with fresh random bytes. Logs it if no generation page is there any more.
pub fn change(refresh: &Refresh, bytes: &mut [u8]) -> io::Result<()> {
    let mut fresh: Fresh = [0; REFRESH_BYTES_MAX];
    random::fill(&mut fresh)?;
    if !refresh.apply(bytes, &fresh) {
        let message = format!("the generation page is not at {:#x} any more", refresh.at);
        forkd_log::line("refresh", &message);
    }
    Ok(())
}
