//! The image's defaults for commands, kept in memory, and so in every snapshot.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use ts_rs::TS;

use crate::command::users::User;

/// Where programs are looked for when nobody says.
pub const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Clone, Debug, Default, Deserialize, Serialize, TS)]
#[serde(default, deny_unknown_fields)]
#[ts(export_to = "agent-wire.ts", optional_fields)]
pub struct Config {
    #[ts(as = "Option<_>")]
    pub env: BTreeMap<String, String>,
    pub workdir: Option<String>,
    pub user: Option<String>,
    #[ts(as = "Option<_>")]
    pub entrypoint: Vec<String>,
    #[ts(as = "Option<_>")]
    pub cmd: Vec<String>,
}

impl Config {
    pub fn workdir(&self) -> &str {
        match self.workdir.as_deref() {
            None | Some("") => "/",
            Some(workdir) => workdir,
        }
    }

    /// The whole environment of a program: what the request gives, over what the image gives, over what the user implies.
    pub fn env_for(&self, user: &User, env: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let mut whole = BTreeMap::from([
            ("PATH".to_owned(), PATH_DEFAULT.to_owned()),
            ("HOME".to_owned(), user.home.clone()),
        ]);
        if let Some(name) = &user.name {
            whole.insert("USER".to_owned(), name.clone());
        }
        whole.extend(self.env.clone());
        whole.extend(env);
        whole
    }
}
