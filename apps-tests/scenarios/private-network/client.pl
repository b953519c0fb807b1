# Counts in Redis over one connection, and writes down how far it is. Any other answer than the next number ends it.
use strict;
use warnings;
use IO::Socket::INET;

my $socket;
for (1 .. 100) {
    $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => 6379, Proto => 'tcp') and last;
    select undef, undef, undef, 0.1;
}
die "no server: $@" unless $socket;
$socket->autoflush(1);
for (my $next = 1;; $next++) {
    print $socket "INCR counter\r\n" or die "sending: $!";
    my $answer = <$socket> // die "the connection is over";
    $answer eq ":$next\r\n" or die "answer $answer, expected $next";
    open my $file, '>', "$ARGV[0].new" or die $!;
    print $file "$next\n";
    close $file or die $!;
    rename "$ARGV[0].new", $ARGV[0] or die $!;
    select undef, undef, undef, 0.01;
}
