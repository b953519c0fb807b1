//! A virtio network card while this program drives it: frames in, answers out, no interrupts, no waiting.

use crate::virtio::{Heap, Registers};
use alloc::boxed::Box;
use holding::answer::Answered;
use holding::known::Known;
use holding::own::Own;
use holding::FRAME;
use machine::clock::Clock;
use virtio_drivers::device::net::VirtIONetRaw;

/// Descriptors of each queue.
const QUEUE: usize = 64;
/// Buffers for frames that come, and for answers that are on their way.
const RECEIVING: usize = 32;
const SENDING: usize = 8;
/// Bytes of a buffer: a frame and the card's head, of which this much is left before an answer.
const BUFFER: usize = 2048;
/// Frames that are looked at between two looks at anything else.
const BURST: usize = 32;
/// The status of a card that is driven.
pub const DRIVEN: u8 = 0x0F;
/// The first of them is for frames that come.
const RECEIVE_QUEUE: u16 = 0;
const SEND_QUEUE: u16 = 1;

type Buffer = [u8; BUFFER];

/// The card.
pub struct Card {
    registers: Registers,
    driver: VirtIONetRaw<Heap, Registers, QUEUE>,
    receiving: Box<[Buffer; RECEIVING]>,
    /// The buffer that each token stands for, while the card has it.
    received: [Option<u8>; QUEUE],
    sending: Box<[Buffer; SENDING]>,
    /// For each buffer, its token and length while the card has it.
    sent: [Option<(u16, usize)>; SENDING],
    /// Where its first queue is: nobody else's is there.
    queue: u64,
    answer: Box<[u8; FRAME]>,
}

impl Card {
    /// Resets the card and drives it.
    ///
    /// # Errors
    /// What does not work. The card is reset then, if it can be.
    pub fn take(registers: Registers, clock: &Clock) -> Result<Self, &'static str> {
        registers.reset(clock).map_err(|_| "is not reset in time")?;
        let driver = VirtIONetRaw::new(registers).map_err(|_| "has no queues for this program")?;
        let mut card = Self {
            registers,
            driver,
            receiving: Box::new([[0; BUFFER]; RECEIVING]),
            received: [None; QUEUE],
            sending: Box::new([[0; BUFFER]; SENDING]),
            sent: [None; SENDING],
            queue: registers.first_queue(),
            answer: Box::new([0; FRAME]),
        };
        card.driver.disable_interrupts();
        let ready = (0..RECEIVING).try_for_each(|buffer| card.offer(buffer));
        let ready = ready.and_then(|()| match registers.status() {
            DRIVEN => Ok(()),
            _ => Err("does not accept what it is asked for"),
        });
        if let Err(why) = ready {
            // It must not write to memory that is given back.
            let _ = registers.reset(clock);
            return Err(why);
        }
        Ok(card)
    }

    /// Gives a buffer to the card.
    fn offer(&mut self, buffer: usize) -> Result<(), &'static str> {
        let bytes = self.receiving.get_mut(buffer).ok_or("a buffer that is none")?;
        // SAFETY: nobody touches the buffer before the card has given it back; it lives as long as the card is not reset.
        let token = unsafe { self.driver.receive_begin(bytes) }.map_err(|_| "takes no more buffers")?;
        let place = self.received.get_mut(usize::from(token));
        *place.ok_or("a buffer without a place")? = Some(buffer as u8);
        Ok(())
    }

    /// Whether the card still has the queues of this program.
    pub fn is_ours(&self) -> bool {
        self.registers.first_queue() == self.queue
    }

    /// Tells the card of everything once more: it did not hear what it was told while it did not answer.
    pub fn notify(&mut self) {
        use virtio_drivers::transport::Transport;
        self.registers.notify(RECEIVE_QUEUE);
        self.registers.notify(SEND_QUEUE);
    }

    /// Answers what has come, or leaves it if nothing is known of the machine yet, and sends what is to be sent from this
    /// program's own address, if that is here. `elapsed` are milliseconds since the instant of the records.
    ///
    /// # Errors
    /// What the card does that no card does.
    pub fn serve(
        &mut self,
        known: Option<&Known>,
        mut own: Option<&mut Own>,
        elapsed: u64,
        answered: &mut Answered,
    ) -> Result<(), &'static str> {
        self.take_back()?;
        for _ in 0..BURST {
            let Some(token) = self.driver.poll_receive() else { break };
            let place = self.received.get_mut(usize::from(token));
            let buffer = place
                .and_then(Option::take)
                .ok_or("gives back a buffer that it does not have")?;
            let bytes = self
                .receiving
                .get_mut(usize::from(buffer))
                .ok_or("a buffer that is none")?;
            // SAFETY: the buffer that was given for this token.
            let received = unsafe { self.driver.receive_complete(token, bytes) };
            if let Ok((head, length)) = received {
                let frame = head.checked_add(length).and_then(|end| bytes.get(head..end));
                let frame = frame.ok_or("says that more has come than there is room")?;
                let asked = own.as_mut().and_then(|own| own.takes(frame, elapsed).then_some(own));
                let length = match (asked, known) {
                    (Some(own), _) => own.answer(frame, elapsed, &mut self.answer),
                    // Time stamps of TCP have 32 bits.
                    (_, Some(known)) => known.answer(frame, elapsed as u32, &mut self.answer, answered),
                    (_, None) => None,
                };
                if let Some(length) = length {
                    self.send(length)?;
                }
            }
            self.offer(usize::from(buffer))?;
        }
        own.map_or(Ok(()), |own| self.send_own(own, elapsed))
    }

    /// Sends what is to be sent from this program's own address, as long as there is room.
    fn send_own(&mut self, own: &mut Own, elapsed: u64) -> Result<(), &'static str> {
        while self.sent.contains(&None) {
            let Some(length) = own.next(elapsed, &mut self.answer) else {
                break;
            };
            self.send(length)?;
        }
        Ok(())
    }

    /// Buffers that the card has sent.
    fn take_back(&mut self) -> Result<(), &'static str> {
        while let Some(token) = self.driver.poll_transmit() {
            let is_it = |(sent, _): (u16, usize)| sent == token;
            let mut all = self.sent.iter_mut().zip(self.sending.iter());
            let (sent, bytes) =
                (all.find(|(sent, _)| sent.is_some_and(is_it))).ok_or("has sent what it was not given")?;
            let length = sent.take().map_or(0, |(_, length)| length);
            let bytes = bytes.get(..length).ok_or("a buffer that is too short")?;
            // SAFETY: the bytes that were given for this token.
            unsafe { self.driver.transmit_complete(token, bytes) }.map_err(|_| "has sent something else")?;
        }
        Ok(())
    }

    /// Sends so many bytes of the answer; drops it while all buffers are on their way.
    fn send(&mut self, length: usize) -> Result<(), &'static str> {
        let mut all = self.sent.iter_mut().zip(self.sending.iter_mut());
        let Some((sent, bytes)) = all.find(|(sent, _)| sent.is_none()) else {
            return Ok(());
        };
        let head = self
            .driver
            .fill_buffer_header(bytes)
            .map_err(|_| "has a head that is too long")?;
        let end = head + length;
        let (Some(room), Some(answer)) = (bytes.get_mut(head..end), self.answer.get(..length)) else {
            return Err("an answer that is too long");
        };
        room.copy_from_slice(answer);
        // SAFETY: nobody touches the buffer before the card has given it back.
        let token = unsafe { self.driver.transmit_begin(&bytes[..end]) }.map_err(|_| "takes nothing to send")?;
        *sent = Some((token, end));
        Ok(())
    }
}
