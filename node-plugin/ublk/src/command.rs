//! Control commands: their names, numbers and bytes.

use std::fmt;

use crate::DeviceId;
use crate::uapi::{
    CMD_ADD_DEV, CMD_DEL_DEV, CMD_END_USER_RECOVERY, CMD_GET_DEV_INFO, CMD_GET_FEATURES, CMD_GET_PARAMS,
    CMD_SET_PARAMS, CMD_START_DEV, CMD_START_USER_RECOVERY, CMD_STOP_DEV, CtrlCmd, DEV_ID_AUTO,
    QUEUE_ID_NONE,
};

/// A control command, for messages and counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command {
    /// What the driver can do.
    GetFeatures,
    /// Make a device.
    AddDev,
    /// Set its geometry and limits.
    SetParams,
    /// Read them.
    GetParams,
    /// Make `/dev/ublkbN`.
    StartDev,
    /// State, pid and size of a device.
    GetDevInfo,
    /// Remove `/dev/ublkbN`.
    StopDev,
    /// Remove the device.
    DelDev,
    /// Take over from a dead server.
    StartUserRecovery,
    /// Let I/O run again.
    EndUserRecovery,
}

impl Command {
    /// Every command.
    pub const ALL: [Command; 10] = [
        Command::GetFeatures,
        Command::AddDev,
        Command::SetParams,
        Command::GetParams,
        Command::StartDev,
        Command::GetDevInfo,
        Command::StopDev,
        Command::DelDev,
        Command::StartUserRecovery,
        Command::EndUserRecovery,
    ];

    /// The kernel's name for it, without its prefix.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Command::GetFeatures => "GET_FEATURES",
            Command::AddDev => "ADD_DEV",
            Command::SetParams => "SET_PARAMS",
            Command::GetParams => "GET_PARAMS",
            Command::StartDev => "START_DEV",
            Command::GetDevInfo => "GET_DEV_INFO",
            Command::StopDev => "STOP_DEV",
            Command::DelDev => "DEL_DEV",
            Command::StartUserRecovery => "START_USER_RECOVERY",
            Command::EndUserRecovery => "END_USER_RECOVERY",
        }
    }

    /// Whether it only tells what there is: sent twice at a time, it does no harm.
    pub(crate) const fn looks_only(self) -> bool {
        match self {
            Command::GetFeatures | Command::GetParams | Command::GetDevInfo => true,
            Command::AddDev
            | Command::SetParams
            | Command::StartDev
            | Command::StopDev
            | Command::DelDev
            | Command::StartUserRecovery
            | Command::EndUserRecovery => false,
        }
    }

    pub(crate) const fn opcode(self) -> u32 {
        match self {
            Command::GetFeatures => CMD_GET_FEATURES,
            Command::AddDev => CMD_ADD_DEV,
            Command::SetParams => CMD_SET_PARAMS,
            Command::GetParams => CMD_GET_PARAMS,
            Command::StartDev => CMD_START_DEV,
            Command::GetDevInfo => CMD_GET_DEV_INFO,
            Command::StopDev => CMD_STOP_DEV,
            Command::DelDev => CMD_DEL_DEV,
            Command::StartUserRecovery => CMD_START_USER_RECOVERY,
            Command::EndUserRecovery => CMD_END_USER_RECOVERY,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a command is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Target {
    /// The driver as a whole.
    Driver,
    /// A device that is to get a free number.
    AnyDevice,
    /// A device.
    Device(DeviceId),
}

impl Target {
    pub(crate) const fn wire_id(self) -> u32 {
        match self {
            Target::Driver | Target::AnyDevice => DEV_ID_AUTO,
            Target::Device(id) => id.get(),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Driver => f.write_str("the driver"),
            Target::AnyDevice => f.write_str("a new device"),
            Target::Device(id) => write!(f, "device {id}"),
        }
    }
}

/// A command ready to be sent, with the bytes that the kernel reads and writes while it runs.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) command: Command,
    pub(crate) target: Target,
    pub(crate) data: u64,
    pub(crate) buffer: Box<[u8]>,
}

impl Prepared {
    pub(crate) fn plain(command: Command, target: Target, data: u64) -> Prepared {
        Prepared { command, target, data, buffer: Box::default() }
    }

    pub(crate) fn with_buffer(command: Command, target: Target, buffer: &[u8]) -> Prepared {
        Prepared { command, target, data: 0, buffer: buffer.into() }
    }
}

/// The 80 bytes that go into the submission entry of a command for `dev_id` whose buffer of `len` bytes is at `addr`.
pub(crate) fn image(dev_id: u32, data: u64, addr: u64, len: u16) -> [u8; 80] {
    let header = CtrlCmd { dev_id, queue_id: QUEUE_ID_NONE, len, addr, data, ..CtrlCmd::default() };
    let mut image = [0; 80];
    image[..size_of::<CtrlCmd>()].copy_from_slice(bytemuck::bytes_of(&header));
    image
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceSpec;
    use crate::params::{params_len, tests::sample};
    use crate::uapi::Params;

    fn device(id: u32) -> Target {
        Target::Device(DeviceId::new(id))
    }

    /// Header bytes as a table row: id, length, address, data.
    fn expected(id: [u8; 4], len: u8, addr: u64, data: u64) -> [u8; 80] {
        let mut image = [0_u8; 80];
        image[..4].copy_from_slice(&id);
        image[4..6].copy_from_slice(&[0xff, 0xff]);
        image[6] = len;
        image[8..16].copy_from_slice(&addr.to_le_bytes());
        image[16..24].copy_from_slice(&data.to_le_bytes());
        image
    }

    #[test]
    fn every_command_has_the_bytes_that_the_kernel_was_seen_to_take() {
        const ADDR: u64 = 0x7fff_1234_5678;
        let no_id = [0xff; 4];
        let three = [3, 0, 0, 0];
        let info = DeviceSpec { id: Some(DeviceId::new(3)), ..DeviceSpec::default() }.to_wire(77);
        let params = sample().to_wire().expect("valid");
        let table = [
            (Prepared::with_buffer(Command::GetFeatures, Target::Driver, &[0; 8]), no_id, 8, ADDR, 0),
            (
                Prepared::with_buffer(Command::AddDev, device(3), bytemuck::bytes_of(&info)),
                three,
                64,
                ADDR,
                0,
            ),
            (Prepared::with_buffer(Command::AddDev, Target::AnyDevice, &[0; 64]), no_id, 64, ADDR, 0),
            (
                Prepared::with_buffer(Command::SetParams, device(3), bytemuck::bytes_of(&params)),
                three,
                136,
                ADDR,
                0,
            ),
            (
                Prepared::with_buffer(
                    Command::GetParams,
                    device(3),
                    bytemuck::bytes_of(&Params { len: params_len(), ..Params::default() }),
                ),
                three,
                136,
                ADDR,
                0,
            ),
            (Prepared::plain(Command::StartDev, device(3), 4242), three, 0, 0, 4242),
            (Prepared::with_buffer(Command::GetDevInfo, device(3), &[0; 64]), three, 64, ADDR, 0),
            (Prepared::plain(Command::StopDev, device(3), 0), three, 0, 0, 0),
            (Prepared::plain(Command::DelDev, device(3), 0), three, 0, 0, 0),
            (Prepared::plain(Command::StartUserRecovery, device(3), 0), three, 0, 0, 0),
            (Prepared::plain(Command::EndUserRecovery, device(3), 4242), three, 0, 0, 4242),
        ];
        for (prepared, id, len, addr, data) in table {
            let bytes = u16::try_from(prepared.buffer.len()).expect("a small buffer");
            let image = image(prepared.target.wire_id(), prepared.data, addr, bytes);
            assert_eq!(image, expected(id, len, addr, data), "{}", prepared.command);
        }
    }

    #[test]
    fn no_two_commands_share_a_number() {
        let mut opcodes = Command::ALL.map(Command::opcode);
        opcodes.sort_unstable();
        assert!(opcodes.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
