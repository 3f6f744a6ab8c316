//! Rights and views that can be taken from a VMM.

/// The user of a VMM is this number and its pid: above what is handed out to people, services and containers.
pub const USER_BASE: u32 = 1_879_048_192;

/// Steps in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    NetworkNamespace,
    IpcNamespace,
    UtsNamespace,
    MountNamespace,
    ResourceLimits,
    NoCapabilities,
    OwnUser,
    NoNewPrivileges,
}

impl Step {
    pub const ALL: [Step; 8] = [
        Step::NetworkNamespace,
        Step::IpcNamespace,
        Step::UtsNamespace,
        Step::MountNamespace,
        Step::ResourceLimits,
        Step::NoCapabilities,
        Step::OwnUser,
        Step::NoNewPrivileges,
    ];

    /// Name on the command line and in reports.
    pub fn id(self) -> &'static str {
        match self {
            Step::NetworkNamespace => "network_namespace",
            Step::IpcNamespace => "ipc_namespace",
            Step::UtsNamespace => "uts_namespace",
            Step::MountNamespace => "mount_namespace",
            Step::ResourceLimits => "resource_limits",
            Step::NoCapabilities => "no_capabilities",
            Step::OwnUser => "own_user",
            Step::NoNewPrivileges => "no_new_privs",
        }
    }

    /// Effect of the step, for people.
    pub fn meaning(self) -> &'static str {
        match self {
            Step::NetworkNamespace => "A VMM has no network.",
            Step::IpcNamespace => "A VMM shares no memory or queues with other programs.",
            Step::UtsNamespace => "A VMM cannot change the host's name.",
            Step::MountNamespace => "A VMM sees programs and libraries, read-only, and no other files.",
            Step::ResourceLimits => "A VMM's files, descriptors and threads are limited.",
            Step::NoCapabilities => "A VMM has no capability and cannot gain one.",
            Step::OwnUser => "Each VMM is a user of its own.",
            Step::NoNewPrivileges => "A VMM gains nothing by starting a privileged program.",
        }
    }

    pub fn of(id: &str) -> Option<Step> {
        Step::ALL.into_iter().find(|step| step.id() == id)
    }
}
