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
    const fn wire_id(self) -> u32 {
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

/// A command ready to be sent, with the memory that the kernel reads and writes while it runs.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) command: Command,
    pub(crate) target: Target,
    data: u64,
    /// On the heap: it must not move while the kernel has its address.
    buffer: Box<[u8]>,
}

impl Prepared {
    pub(crate) fn plain(command: Command, target: Target, data: u64) -> Prepared {
        Prepared { command, target, data, buffer: Box::default() }
    }

    pub(crate) fn with_buffer(command: Command, target: Target, buffer: &[u8]) -> Prepared {
        assert!(u16::try_from(buffer.len()).is_ok(), "{command}: the length field has 16 bits");
        Prepared { command, target, data: 0, buffer: buffer.into() }
    }

    /// The 80 bytes that go into the submission entry. The kernel may use [`Prepared::into_buffer`]'s
    /// memory from submission until completion.
    pub(crate) fn image(&mut self) -> [u8; 80] {
        let addr =
            if self.buffer.is_empty() { 0 } else { self.buffer.as_mut_ptr().expose_provenance() as u64 };
        self.image_at(addr)
    }

    fn image_at(&self, addr: u64) -> [u8; 80] {
        let header = CtrlCmd {
            dev_id: self.target.wire_id(),
            queue_id: QUEUE_ID_NONE,
            len: u16::try_from(self.buffer.len()).expect("checked when the buffer was given"),
            addr,
            data: self.data,
            ..CtrlCmd::default()
        };
        let mut image = [0; 80];
        image[..size_of::<CtrlCmd>()].copy_from_slice(bytemuck::bytes_of(&header));
        image
    }

    pub(crate) fn into_buffer(self) -> Box<[u8]> {
        self.buffer
    }
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
            assert_eq!(prepared.image_at(addr), expected(id, len, addr, data), "{}", prepared.command);
        }
    }

    #[test]
    fn the_image_points_at_the_buffer_and_a_command_without_one_points_nowhere() {
        let mut prepared = Prepared::with_buffer(Command::GetDevInfo, device(1), &[0; 64]);
        let image = prepared.image();
        let buffer = prepared.into_buffer();
        let addr = buffer.as_ptr().addr() as u64;
        assert_eq!(image[8..16], addr.to_le_bytes());
        assert_eq!(Prepared::plain(Command::StopDev, device(1), 0).image()[8..16], [0; 8]);
    }

    #[test]
    fn no_two_commands_share_a_number() {
        let mut opcodes = Command::ALL.map(Command::opcode);
        opcodes.sort_unstable();
        assert!(opcodes.windows(2).all(|pair| pair[0] != pair[1]));
    }
}
